// Reads {schema, text, offset} and writes {diagnostics, completions, hover}, as the JSON language service answers.
import service_module from "vscode-json-languageservice";

const { getLanguageService, TextDocument } = service_module;

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const { schema, text, offset } = JSON.parse(Buffer.concat(chunks).toString("utf8"));

const uri = "file:///spec.json";
const service = getLanguageService({});
service.configure({ validate: true, schemas: [{ uri: "file:///schema.json", fileMatch: ["*"], schema }] });
const document = TextDocument.create(uri, "json", 1, text);
const parsed = service.parseJSONDocument(document);
const position = document.positionAt(offset ?? 0);
const diagnostics = await service.doValidation(document, parsed, {}, schema);
const completions = await service.doComplete(document, position, parsed);
const hover = await service.doHover(document, position, parsed);
const line = (diagnostic) => ({ line: diagnostic.range.start.line + 1, message: diagnostic.message });
process.stdout.write(JSON.stringify({
  diagnostics: diagnostics.map(line),
  completions: completions.items.map((item) => item.label),
  hover: hover ? hover.contents : null,
}));
