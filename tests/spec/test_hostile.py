"""Specs made to harm: each is refused, soon, with nothing run, read or allocated on its behalf."""

import json
import os
import subprocess
import sys
import time
import tracemalloc

import pytest

from kerasimg import catalog
from kerasimg.errors import CallError, KerasimgError, SpecError
from kerasimg.spec.reader import MAX_BYTES, parse

LONGEST_S = 30
"""CPU seconds. No measure of speed: each takes less than one, and hours where a limit is missing."""
MOST_BYTES = 20_000_000
DENSE = {"layer": "Dense", "units": 1}
FLAT = [{"layer": "Flatten"}]


def spec(**parts):
    return {"kerasimg": 1, "model": FLAT, **parts}


def model(*nodes, **parts):
    return spec(model=list(nodes), **parts)


def refusal(ref, **how):
    """The text of the error, which must come soon, be printable and not be endless."""
    began = time.process_time()
    with pytest.raises(KerasimgError) as caught:
        catalog.load(ref, **how)
    assert time.process_time() - began < LONGEST_S
    text = str(caught.value)
    assert text.encode("utf-8")
    assert len(text) < 60_000
    return text


def chain(count, body, **more):
    return {f"b{i}": {"nodes": [{"block": f"b{i + 1}", **more}] * body} for i in range(count)} | {
        f"b{count}": {"nodes": [DENSE]}
    }


def growing(count, times):
    return {"x0": [1] * 1000} | {f"x{i}": [f"=x{i - 1}"] * times for i in range(1, count)}


CODE = {
    "a lambda": model({"layer": "Lambda", "function": "lambda x: x"}),
    "a lambda from Keras' own format": model({"layer": "Lambda", "config": {"function": ["4wEAAAA", None, None]}}),
    "a saved model": model({"layer": "TFSMLayer", "filepath": "/tmp/model"}),
    "a torch module": model({"layer": "TorchModuleWrapper", "module": "x"}),
    "a vocabulary file": model({"layer": "StringLookup", "vocabulary": "/etc/passwd"}),
    "an integer look-up file": model({"layer": "IntegerLookup", "vocabulary": "/etc/passwd"}),
    "a path as a layer": model({"layer": "os.system", "command": "true"}),
    "a dunder as a layer": model({"layer": "__class__"}),
    "a pipeline of dicts": model({"layer": "Pipeline", "layers": [{"class_name": "Lambda"}]}),
    "a dunder argument": model({**DENSE, "__class__": "x"}),
    "an argument of the base class": model({**DENSE, "autocast": False, "activity_regularizer": {"class_name": "L2"}}),
    "a callback that runs code": spec(fit={"callbacks": [{"type": "LambdaCallback", "on_epoch_end": "print"}]}),
    "a callback that writes files": spec(fit={"callbacks": [{"type": "ModelCheckpoint", "filepath": "/tmp/x"}]}),
    "a file as a backbone's weights": model({"backbone": "MobileNetV2", "weights": "/etc/passwd"}),
    "a module as a backbone": model({"backbone": "os", "weights": None}),
    "an include_top": model({"backbone": "MobileNetV2", "classifier_activation": {"class_name": "x"}}),
}


def test_a_dict_with_shared_parts_costs_no_more_than_a_file():
    shared = [1] * 1000
    for _ in range(8):
        shared = [shared] * 100
    document = spec(params={"x": shared})
    refusal({"kerasimg": 2})  # what is read once is
    tracemalloc.start()
    try:
        assert refusal(document) == "spec: larger than 1,000,000 bytes"
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def test_a_dict_within_itself_is_refused():
    document = spec()
    document["params"] = {"x": document}
    assert refusal(document) == "spec: nested deeper than 64 levels"


RANGE = {
    "a stride": ({"layer": "Conv2D", "filters": 1, "kernel_size": 1, "strides": 10**15}, "strides: expected at"),
    "one of two": ({"layer": "MaxPooling2D", "pool_size": 2, "strides": [2, 10**15]}, "strides: expected at"),
    "a dilation": ({"layer": "DepthwiseConv2D", "kernel_size": 3, "dilation_rate": 10**9}, "dilation_rate: exp"),
    "a pool": ({"layer": "AveragePooling2D", "pool_size": 1e15, "padding": "same"}, "pool_size: expected at most"),
    "a seed of a float": ({"layer": "Dropout", "rate": 0.1, "seed": 0.5}, "seed: expected an integer"),
    "a seed beyond 32 bits": ({"layer": "Dropout", "rate": 0.1, "seed": 2**32}, "seed: expected at most 4,294,967,295"),
    "a seed below 0": (
        {**DENSE, "kernel_initializer": {"type": "HeNormal", "seed": -1}},
        "kernel_initializer.seed: expected 0 or more",
    ),
    "a constant": (
        {**DENSE, "kernel_initializer": {"type": "Constant", "value": 1e300}},
        "kernel_initializer.value: expected a number, got 1e+300, which is out of range for float32",
    ),
    "a number below": (
        {**DENSE, "bias_initializer": {"type": "RandomUniform", "minval": -1e39}},
        "which is out of range for float32",
    ),
}


@pytest.mark.parametrize("case", RANGE)
def test_numbers_that_no_backend_computes_with_are_faults(case):
    node, message = RANGE[case]
    assert message in refusal(model(*FLAT, node) if node["layer"] == "Dense" else model(node))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"fit": {"seed": 10**17}}, "fit.seed"),
        ({"tune": {"seed": 2**32}}, "tune.seed"),
        ({"image": {"scale": {"mean": 1e39}}}, "image.scale"),
        ({"image": {"scale": {"std": 1e-300}}}, "image.scale"),
        ({"image": {"scale": {"std": [1, 1e300, 1]}}}, "image.scale"),
    ],
)
def test_numbers_of_a_section_that_are_out_of_range_are_faults(parts, message):
    assert message in refusal(spec(**parts))


@pytest.mark.parametrize("document", CODE.values(), ids=CODE)
def test_what_could_run_code_or_read_files_has_no_name_in_a_spec(document):
    assert refusal(document)


@pytest.mark.parametrize("key", ["module", "class_name", "config", "registered_name"])
@pytest.mark.parametrize(
    "place",
    [
        lambda value: model({**DENSE, "activation": value}),
        lambda value: model({**DENSE, "kernel_initializer": value}),
        lambda value: model({**DENSE, "kernel_regularizer": value}),
        lambda value: model({**DENSE, "kernel_constraint": value}),
        lambda value: model({**DENSE, "dtype": value}),
        lambda value: model({**DENSE, "units": value}),
        lambda value: model({"layer": value}),
        lambda value: model({"backbone": "MobileNetV2", "weights": value}),
        lambda value: spec(compile={"optimizer": value}),
        lambda value: spec(compile={"optimizer": {"type": "SGD", "learning_rate": value}}),
        lambda value: spec(compile={"loss": value}),
        lambda value: spec(compile={"metrics": [value]}),
        lambda value: spec(fit={"callbacks": [value]}),
        lambda value: spec(fit={"stages": [{"learning_rate": value}]}),
        lambda value: spec(augment=[{"layer": "RandomFlip", "mode": value}]),
        lambda value: model({**DENSE, "activation": "=a"}, params={"a": value}),
        lambda value: model({**DENSE, "activation": {"$choice": {"a": "relu", "b": value}, "default": "a"}}),
    ],
)
def test_a_keras_config_is_refused_wherever_an_object_may_stand(place, key):
    config = {"module": "builtins", "class_name": "eval", "config": {}, "registered_name": None}
    assert refusal(place(config))
    assert refusal(place({key: config[key]}))
    assert refusal(place({"type": "L2", key: config[key]}))


@pytest.mark.parametrize(
    "expression",
    [
        "=__import__('os').system('true')", "=open('/etc/passwd')", "=eval('1')", "=exec('1')", "=().__class__",
        "=x.real", "=x.__class__.__mro__", "=[[1]][0]", "={1: 2}", "=(1, 2)", "=lambda: 1", "=(lambda: 1)()",
        "=[i for i in x]", "={i for i in x}", "=sum(i for i in x)", "=f'{x}'", "=(y := 1)", "=9 ** 9 ** 9", "=1 << 99",
        "='x' * 1000000000", "=1000000000 * 1000000000", "=x @ x", "=~1", "=min(*x)", "=min(1, key=x)", "=x[0][0]",
        "=await x", "=yield", "=1; 2", "=import os", "=...", "=1j", "=b'x'", "=x is x", "=1 in 'ab'", "=", "=\x00",
        "=" + "-" * 450 + "1", "=" + "(" * 240 + "1" + ")" * 240, "=" + "1" * 499, "=" + "not " * 120 + "1",
        "=" + "1 if 1 else " * 60 + "1", "=" + "1 + " * 2000 + "1", "=x[x]", "=x[::-1]", "=x[9]", "=1e400", "=1 / 0",
        "=round(1.5, 'a')", "=len(1)", "=sum('ab')", "=True + 'a'", "='a' < 1", "=print(1)", "=getattr(x, 'a')",
    ],
)  # fmt: skip
def test_an_expression_is_arithmetic_and_no_more(expression):
    assert refusal(spec(params={"x": [1, 2], "y": expression})).startswith("spec: params.y: ")


BOMBS = {
    "a repeat of a billion": model({**DENSE, "repeat": 10**9}),
    "a computed repeat": model({**DENSE, "repeat": "=10000 * 10000"}),
    "repeats within repeats": model({"block": "b0", "repeat": 10_000}, blocks=chain(3, 1, repeat=10_000)),
    "nothing, very often": model(
        {"block": "b", "repeat": 10_000}, blocks={"b": {"nodes": [{**DENSE, "repeat": 0}] * 4000}}
    ),
    "skipped nodes, very often": model(
        {"block": "b", "repeat": 10_000}, blocks={"b": {"nodes": [{**DENSE, "when": False}] * 4000}}
    ),
    "twenty blocks of ten": model({"block": "b0"}, blocks=chain(20, 10)),
    "a block within itself": model({"block": "a"}, blocks={"a": {"nodes": [{"block": "a"}] * 2}}),
    "forty blocks deep": model({"block": "b0"}, blocks=chain(40, 1)),
    "a thousand let": model(
        {"block": "a", "repeat": 10_000},
        blocks={"a": {"let": {"x0": 1} | {f"x{i}": f"=x{i - 1} + 1" for i in range(1, 5000)}, "nodes": [DENSE]}},
    ),
    "two hundred let, very often": model(
        {"block": "a", "repeat": 10_000},
        blocks={"a": {"let": {"x0": 1} | {f"x{i}": f"=x{i - 1} + 1" for i in range(1, 200)}, "nodes": [DENSE]}},
    ),
    "a thousand arguments": model(
        {"block": "a", "repeat": 10_000}, blocks={"a": {"args": {f"x{i}": i for i in range(5000)}, "nodes": [DENSE]}}
    ),
    "five thousand params": spec(params={"x0": 1} | {f"x{i}": f"=x{i - 1} + 1" for i in range(1, 5000)}),
    "params that square": spec(params={"x0": 2} | {f"x{i}": f"=x{i - 1} * x{i - 1}" for i in range(1, 400)}),
    "texts that double": spec(params={"x0": "a" * 10} | {f"x{i}": f"=x{i - 1} + x{i - 1}" for i in range(1, 400)}),
    "lists that multiply": spec(params=growing(10, 50)),
    "lists that multiply, used": model({**DENSE, "units": "=x9"}, params=growing(10, 50)),
    "lists that multiply in a section": spec(params=growing(10, 50), fit={"stages": "=x9"}),
    "lists that multiply in a let": model(
        {"block": "a"}, blocks={"a": {"let": growing(12, 50), "nodes": [{**DENSE, "units": "=x11"}]}}
    ),
    "lists in lists by params": spec(params={"x0": [1]} | {f"x{i}": [f"=x{i - 1}"] for i in range(1, 400)}),
    "a long list, very often": model(
        {"layer": "Reshape", "target_shape": [1] * 100_000, "repeat": 10_000},
    ),
    "many inputs, very often": model({"layer": "Add", "inputs": ["in"] * 100_000, "repeat": 10_000}),
    "a list of nodes without end": model(*[{"layer": "ReLU"}] * 40_000),
    "a table without end": model({"layer": "Dense", "table": [["units"], *[[1]] * 100_000]}),
    "a table a mile wide": model({"layer": "Dense", "table": [[f"u{i}" for i in range(40_000)], list(range(40_000))]}),
    "a hundred thousand options": spec(params={"a": {"$choice": list(range(100_000)), "default": 0}}),
    "ten thousand labels": spec(params={"a": {"$choice": {f"l{i}": i for i in range(10_000)}, "default": "l0"}}),
    "five thousand search values": spec(params={f"a{i}": {"$choice": [1, 2], "default": 1} for i in range(5000)}),
    "fifty thousand unknown keys": spec(**{f"k{i}": 1 for i in range(50_000)}),
    "a hundred thousand faulty stages": spec(fit={"stages": [0] * 100_000}),
    "thousands of faulty layers to freeze": spec(fit={"stages": [{"unfreeze": {f"a{i}": -1 for i in range(50_000)}}]}),
    "a hundred thousand faulty metrics": spec(compile={"metrics": ["x"] * 100_000}),
    "thousands of unknown layers": model(*[{"layer": f"Conv2{i}"} for i in range(4000)]),
    "thousands of unknown inputs": model(
        *[{"layer": "ReLU", "name": f"a{i}"} for i in range(2000)],
        *[{"layer": "ReLU", "inputs": f"b{i}"} for i in range(2000)],
    ),
    "thousands of names alike": model(
        *[{**DENSE, "units": "=" + "a" * 40 + f"b{i}"} for i in range(2000)],
        params={"a" * 40 + str(i): i for i in range(400)},
    ),
    "a child with a crowd of params": spec(extends="simple_cnn", params={f"k{i}": 1 for i in range(50_000)}),
    "thirty thousand edits": spec(set={f"model.{i}": 1 for i in range(30_000)}),
    "an edit of ten thousand digits": spec(set={"model." + "9" * 10_000: 1}),
    "an edit of a hundred thousand steps": spec(set={"." * 100_000: 1}),
    "an edit past a name that is none": spec(model=[{"layer": "Flatten", "name": ["a"]}], set={"model.a.b": 1}),
}  # fmt: skip


@pytest.mark.parametrize("document", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(document):
    assert refusal(document)


@pytest.mark.parametrize("name", [name for name in BOMBS if name.startswith(("lists", "texts", "forty"))])
def test_a_bomb_takes_little_memory(name):
    tracemalloc.start()
    try:
        with pytest.raises(SpecError):
            catalog.load(BOMBS[name])
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def test_a_search_of_many_options_takes_no_longer_than_one_of_few():
    document = model(
        {**DENSE, "units": "=a", "repeat": 5000}, params={"a": {"$choice": list(range(1, 900)), "default": 1}}
    )
    began = time.process_time()
    assert len(catalog.load(document).search) == 1
    assert time.process_time() - began < LONGEST_S


BYTES = {
    "nothing": b"",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "half an object": b'{"kerasimg": 1',
    "two objects": b"{}{}",
    "a byte that is no text": b'{"a": "\xff"}',
    "UTF-16": '{"kerasimg": 1}'.encode("utf-16"),
    "half a character": b'{"kerasimg": 1, "name": "\\ud800"}',
    "NaN": b'{"kerasimg": 1, "params": {"a": NaN}}',
    "Infinity": b'{"kerasimg": 1, "params": {"a": -Infinity}}',
    "a number beyond numbers": b'{"kerasimg": 1, "params": {"a": 1e999}}',
    "ten thousand digits": b'{"kerasimg": 1, "params": {"a": ' + b"9" * 10_000 + b"}}",
    "a key twice": b'{"kerasimg": 1, "model": [], "model": []}',
    "a key twice, deep": b'{"kerasimg": 1, "model": [{"layer": "Flatten", "layer": "Lambda"}]}',
    "fifty thousand keys twice": b"{" + b",".join(b'"k%d":1' % (i % 25_000) for i in range(50_000)) + b"}",
    "lists ten thousand deep": b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "objects ten thousand deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "a text without end": b'"' + b'\\"' * 400_000,
    "a text that ends in its escape": b'{"a' + b"\\",
    "a megabyte too much": b" " * (MAX_BYTES + 1),
    "a null byte": b'{"kerasimg": 1}\x00',
    "a trailing comma": b'{"kerasimg": 1,}',
    "a JavaScript comment": b'{"kerasimg": 1} // model',
}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
def test_a_file_that_is_no_sound_json_is_refused(tmp_path, content):
    (tmp_path / "spec.json").write_bytes(content)
    assert "spec.json: " in refusal(tmp_path / "spec.json")


def test_of_a_file_that_is_too_large_no_more_than_the_limit_is_read(tmp_path):
    with (tmp_path / "spec.json").open("wb") as stream:
        stream.truncate(50_000_000_000)  # a hole: it takes no room on disk
    tracemalloc.start()
    try:
        assert "larger than 1,000,000 bytes" in refusal(tmp_path / "spec.json")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_dict_has_the_same_limits_as_a_file():
    deep = inner = {}
    for _ in range(100):
        inner["a"] = inner = {}
    for params in ({"a": float("nan")}, {"a": 10**400}, {"a": {1, 2}}, {"a": object()}, {"a": "\ud800"}, deep):
        assert refusal(spec(params=params))
    assert catalog.load(spec(image={"size": (32, 32)})).image.size == [32, 32]


def test_a_reference_that_is_neither_file_nor_spec_is_refused(tmp_path):
    (tmp_path / "folder.json").mkdir()
    for ref in (tmp_path / "folder.json", tmp_path, "", ".", "/dev/zero", "\x00", "a" * 100_000, "\ud800", 3, None, []):
        with pytest.raises(CallError):
            catalog.load(ref)


def write(folder, name, **parts):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"kerasimg": 1, **parts}))
    return path


@pytest.mark.parametrize(
    "reference",
    ["../secret.json", "..", "sub/../../secret.json", "{root}/secret.json", "link.json", "linked/secret.json",
     "..\\secret.json", "C:\\secret.json", "file:///etc/passwd", "https://example.org/a.json", "~/secret.json",
     "/dev/zero", "", ".", "a" * 100_000, "zoo/../../secret.json", "\x00", "sub", "%2e%2e/secret.json"],
)  # fmt: skip
def test_a_spec_reads_nothing_outside_its_folder(tmp_path, reference):
    folder = tmp_path / "folder"
    write(tmp_path, "secret.json", model=FLAT)
    write(folder, "sub/other.json", model=FLAT)
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    (folder / "linked").symlink_to(tmp_path)
    reference = reference.replace("{root}", str(tmp_path))
    assert "spec.json: extends: " in refusal(write(folder, "spec.json", extends=reference, model=FLAT))
    if reference:
        named = reference.removesuffix(".json") + ".json"
        assert refusal(write(folder, "spec.json", model=[{"backbone": named}]))


def test_files_that_extend_one_another_without_end_are_refused(tmp_path):
    write(tmp_path, "self.json", extends="self.json")
    write(tmp_path, "a.json", extends="b.json")
    write(tmp_path, "b.json", extends="a.json")
    for index in range(100):
        write(tmp_path, f"c{index}.json", extends=f"c{index + 1}.json")
    assert "extends itself: self.json -> self.json" in refusal(tmp_path / "self.json")
    assert "extends itself: a.json -> b.json -> a.json" in refusal(tmp_path / "a.json")
    assert "more than 8 files extend one another" in refusal(tmp_path / "c0.json")


def test_backbones_within_one_another_without_end_are_refused(tmp_path):
    write(tmp_path, "self.json", model=[{"backbone": "self.json"}])
    write(tmp_path, "a.json", model=[{"backbone": "b.json"}])
    write(tmp_path, "b.json", model=[{"backbone": "a.json"}])
    assert "a backbone within itself" in refusal(tmp_path / "self.json")
    assert "a backbone within itself" in refusal(tmp_path / "a.json")
    for index in range(30):
        write(tmp_path, f"c{index}.json", model=[{"backbone": f"c{index + 1}.json", "p": f"={i}"} for i in range(20)])
    assert refusal(tmp_path / "c0.json")


def test_a_backbone_used_ten_thousand_times_is_read_once(tmp_path, monkeypatch):
    write(tmp_path, "inner.json", params={"p": 0}, model=FLAT)
    outer = write(tmp_path, "outer.json", model=[{"backbone": "inner.json", "repeat": 5000}])
    opened = []
    monkeypatch.setattr(
        "kerasimg.spec.inheritance.read", lambda path, label: opened.append(label) or parse(path.read_bytes(), label)
    )
    assert catalog.load(outer).nodes[0].repeat == 5000
    assert opened == [str(outer), "inner.json"]
    many = write(tmp_path, "outer.json", model=[{"backbone": "inner.json", "p": "=i", "repeat": 5000}])
    assert "more than 64 specs as backbones" in refusal(many)


def test_an_error_never_sends_a_terminal_what_it_would_obey():
    escape = "\x1b]0;owned\x07\u202e"
    for document in (
        spec(**{escape: 1}),
        model({"layer": escape}),
        spec(task=escape),
        spec(set={f"model.{escape}.a": 1}),
    ):
        text = refusal(document)
        assert not set(text) & set(escape) - set("]0;owned")
    assert refusal(spec(**{"a\nspec: all is well": 1})).count("\n") == 0


def test_a_hostile_spec_opens_no_file_starts_no_process_and_imports_nothing(tmp_path):
    """All of it in one process that counts what Python does on its behalf."""
    documents = [*CODE.values(), *(spec(params={"a": text}) for text in ("=__import__('os')", "=open('x')"))]
    (tmp_path / "documents.json").write_text(json.dumps(documents))
    code = """
import json, sys
from kerasimg import catalog
from kerasimg.errors import KerasimgError
documents = json.load(open(sys.argv[1]))
def load(document):
    try:
        catalog.load(document)
    except KerasimgError:
        return True
load({"kerasimg": 1, "model": [{"layer": "Lambda"}]})
seen = []
watched = {"open", "import", "exec", "os.system", "os.exec", "subprocess.Popen", "socket.connect", "marshal.loads"}
sys.addaudithook(lambda event, args: seen.append((event, str(args)[:200])) if event in watched else None)
refused = [load(document) for document in documents]
found = [item for item in seen]
assert all(refused), refused
print(json.dumps(found))
"""  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "documents.json")], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == []


def test_a_link_in_the_folder_to_a_file_of_the_folder_is_fine(tmp_path):
    write(tmp_path, "base.json", model=FLAT)
    os.symlink(tmp_path / "base.json", tmp_path / "alias.json")
    assert catalog.load(write(tmp_path, "spec.json", extends="alias.json")).nodes[0].target == "Flatten"


def test_faults_without_number_end_in_a_word_that_there_are_more():
    with pytest.raises(SpecError) as caught:
        catalog.load(model(*[{"layer": f"Conv2{i}"} for i in range(200)]))
    assert len(caught.value.faults) == 51
    assert str(caught.value).endswith("spec: and perhaps more: not all was checked")
