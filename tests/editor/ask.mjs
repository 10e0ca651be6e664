// Reads {schema, questions: [{text, offset}]} and writes a list of {diagnostics, completions, hover}, as the JSON
// language service answers.
import service_module from "vscode-json-languageservice";

const { getLanguageService, TextDocument } = service_module;

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const { schema, questions } = JSON.parse(Buffer.concat(chunks).toString("utf8"));

const uri = "file:///spec.json";
const service = getLanguageService({});
service.configure({ validate: true, schemas: [{ uri: "file:///schema.json", fileMatch: ["*"], schema }] });
const line = (diagnostic) => ({ line: diagnostic.range.start.line + 1, message: diagnostic.message });
const answers = [];
for (const { text, offset } of questions) {
  const document = TextDocument.create(uri, "json", 1, text);
  const parsed = service.parseJSONDocument(document);
  const position = document.positionAt(offset);
  const diagnostics = await service.doValidation(document, parsed, {}, schema);
  const completions = await service.doComplete(document, position, parsed);
  const hover = await service.doHover(document, position, parsed);
  answers.push({
    diagnostics: diagnostics.map(line),
    completions: completions.items.map((item) => item.label),
    hover: hover ? hover.contents : null,
  });
}
process.stdout.write(JSON.stringify(answers));
