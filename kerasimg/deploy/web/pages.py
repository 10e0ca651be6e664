"""Write the web page in two forms: a folder for a web server, and a single file for the file system."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from kerasimg.deploy.web.litertjs import CORE, LOADER, VERSION, WASM, WASM_UTILS
from kerasimg.errors import WeightsError

MODULES = ("metadata.js", "png.js", "pixels.js", "images.js", "learner.js", "classifier.js", "page.js")
"""JavaScript modules; each imports only earlier ones."""
LEARNING = ("learn.js",)
"""Further ones of a page that learns."""
EXAMPLES = "examples.json"
"""The features of training images, for a page that learns."""

ALWAYS = "img-src blob: data:; media-src blob: mediastream:; base-uri 'none'; form-action 'none'"

BARE_IMPORT = 'import { createWasmLib } from "@litertjs/wasm-utils";'

NOTICE = f"""\
LiteRT.js, Copyright Google LLC, Apache License 2.0 (see LICENSE).
From the npm packages {CORE} {VERSION} and {WASM_UTILS} {VERSION}.
Changed by kerasimg: in index.js, the import of {WASM_UTILS} names the file beside it.
"""


def write_folder(
    folder: Path, about: Mapping[str, Any], runtime: Path, examples: Mapping[str, Any] | None = None
) -> None:
    """Writes `index.html` and the files that it loads, except the model: `kerasimg/`, `litert/`, `about.json`.

    Args:
        folder: the folder to write to.
        about: name, task, classes, thresholds and image section of the classifier.
        runtime: folder from `runtime_files`.
        examples: features of training images (`Examples.to_dict`), for a page that learns.
    """
    (folder / "about.json").write_text(_json(about) + "\n", encoding="utf-8")
    own = folder / "kerasimg"
    own.mkdir(exist_ok=True)
    if examples is not None:
        (folder / EXAMPLES).write_text(_json(examples) + "\n", encoding="utf-8")
    for name in (*_modules(examples), "page.css"):
        (own / name).write_text(_source(name), encoding="utf-8")
    litert = folder / "litert"
    litert.mkdir(exist_ok=True)
    for file in sorted(runtime.iterdir()):
        shutil.copyfile(file, litert / file.name)
    patched = _replace_once(litert / "index.js", BARE_IMPORT, 'import { createWasmLib } from "./wasm-utils.js";')
    (litert / "index.js").write_text(
        f"// Changed by kerasimg: the import of {WASM_UTILS}.\n{patched}", encoding="utf-8"
    )
    (litert / "LICENSE").write_text(_source("APACHE-2.0.txt"), encoding="utf-8")
    (litert / "NOTICE").write_text(NOTICE, encoding="utf-8")
    policy = f"default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; {ALWAYS}"
    page = _page(
        about["name"],
        policy,
        style='<link rel="stylesheet" href="kerasimg/page.css">',
        learn="" if examples is None else _source("learn.html"),
        data="",
        script=f'<script type="module" src="kerasimg/{_modules(examples)[-1]}"></script>',
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def single_page(
    about: Mapping[str, Any], model: bytes, runtime: Path, examples: Mapping[str, Any] | None = None
) -> str:
    """Returns one self-contained HTML file; its content security policy forbids network requests.

    Args:
        about: as for `write_folder`.
        model: content of a .tflite file.
        runtime: as for `write_folder`.
        examples: as for `write_folder`.
    """
    style = "\n" + _source("page.css")
    script = f"\n{_litert(runtime)}\n" + "\n".join(_as_script(_source(name)) for name in _modules(examples))
    data = [f'<script type="application/json" id="about">{_json(about)}</script>']
    files = {
        "model": model,
        "litert-loader": (runtime / LOADER).read_bytes(),
        "litert-wasm": (runtime / WASM).read_bytes(),
        **({} if examples is None else {"examples": _json(examples).encode()}),
    }
    for name, content in files.items():
        packed = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
        data.append(f'<script type="application/gzip" id="{name}">{packed}</script>')
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}' 'wasm-unsafe-eval' blob:; style-src '{_digest(style)}'; "
        + ALWAYS
    )
    license_text = _source("APACHE-2.0.txt").replace("--", "- -")
    return _page(
        about["name"],
        policy,
        style=f"<style>{style}</style>",
        learn="" if examples is None else _source("learn.html"),
        data="\n".join(data),
        script=f'<script type="module">{script}</script>\n<!--\n{NOTICE}\n{license_text}-->',
    )


def _modules(examples: Mapping[str, Any] | None) -> tuple[str, ...]:
    return MODULES if examples is None else MODULES + LEARNING


def _page(name: str, policy: str, **parts: str) -> str:
    page = _source("page.html")
    known = {"name": html.escape(name), "policy": policy, "version": VERSION, **parts}
    return re.sub(r"@(\w+)@", lambda match: known[match[1]], page)


def _source(name: str) -> str:
    return (resources.files("kerasimg.deploy.web") / "page" / name).read_text(encoding="utf-8")


def _as_script(source: str) -> str:
    """Returns a module's source for concatenation: without imports and exports."""
    without = re.sub(
        r'^import [^;]*? from "\./[^"]+";\n|^import [^;]*? from "\.\./litert/index\.js";\n', "", source, flags=re.M
    )
    return re.sub(r"^export ", "", without, flags=re.M)


def _litert(runtime: Path) -> str:
    """Returns LiteRT.js as one expression, so that its names stay local."""
    utils = _replace_once(runtime / "wasm-utils.js", "export {\n  createWasmLib\n};", "")
    core = _replace_once(runtime / "index.js", BARE_IMPORT, "")
    core, names, _ = re.split(r"^export \{([^}]*)\};$", core, maxsplit=1, flags=re.M)
    text = f"// {NOTICE.replace(chr(10), chr(10) + '// ').rstrip('/ ')}\n"
    text += "const { loadAndCompile, loadLiteRt, Tensor } = (() => {\n"
    text += f"{utils}\n{core}\nreturn {{{names}}};\n}})();"
    # The source map comment names a missing file; a closing tag would end the script element.
    return re.sub(r"^//# sourceMappingURL=.*$", "", text, flags=re.M).replace("</script", "<\\/script")


def _replace_once(path: Path, old: str, new: str) -> str:
    text = path.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise WeightsError(
            f"'{path}' is not LiteRT.js {VERSION}: expected {old!r} once, found it {text.count(old)} times"
        )
    return text.replace(old, new)


def _json(content: Any) -> str:
    """Returns JSON that is safe inside a script element."""
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
