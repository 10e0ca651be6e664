"""Commands that bring a trained classifier to where it runs: export, serve."""

from __future__ import annotations

import pkgutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kerasimg.cli.options import RUN_HELP, Json, RunArgument, RunData, best_run, keras_loaded, out_option, top_option
from kerasimg.cli.output import print_result
from kerasimg.cli.progress import messages, waiting
from kerasimg.errors import CallError

commands = typer.Typer()


TARGETS = ", ".join(module.name for module in pkgutil.iter_modules([str(Path(__file__).parents[1] / "deploy/targets")]))
"""Those of kerasimg; other packages add more. Found without loading them."""


class PrecisionName(StrEnum):
    """Precision of the numbers in an exported model."""

    float32 = "float32"
    float16 = "float16"
    int16 = "int16"
    dynamic = "dynamic"
    int8 = "int8"
    int4 = "int4"


class InputName(StrEnum):
    """Input type of an int8 model."""

    uint8 = "uint8"
    int8 = "int8"


Targets = Annotated[
    list[str],
    typer.Option("--to", metavar="TARGET", help=f"The target, repeatable: {TARGETS}, or one that you installed."),
]
Precisions = Annotated[
    list[PrecisionName],
    typer.Option(
        "--precision",
        help="dynamic: int8 weights. int8: int8 weights and activations. int16: int16 activations. int4: int4 weights. "
        "Repeatable. Default: float32, where the target has it.",
    ),
]
Batch = Annotated[
    int | None, typer.Option("--batch", min=1, help="Images per call of the exported model. Default: any number.")
]
Tolerance = Annotated[
    float | None,
    typer.Option("--tolerance", min=0, max=1, help="Largest difference of a probability. Default: by precision."),
]
Same = Annotated[
    float | None,
    typer.Option("--same", min=0, max=1, help="Share of images whose class must agree. Default: by precision."),
]
Drop = Annotated[
    float | None,
    typer.Option("--accuracy-drop", min=0, max=1, help="Largest loss of accuracy. Default: by precision."),
]


@commands.command()
def export(
    run: RunArgument,
    to: Targets = ["litert"],  # noqa: B006
    precision: Precisions = [],  # noqa: B006
    batch: Batch = None,
    out: Annotated[Path | None, out_option("a folder for each target in it", "RUN/export")] = None,
    data: RunData = None,
    tolerance: Tolerance = None,
    same: Same = None,
    accuracy_drop: Drop = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Number of images to compare on. Default: all.")
    ] = None,
    input_dtype: Annotated[
        InputName, typer.Option("--input-dtype", help="Input type of an int8 model.")
    ] = InputName.uint8,
    allow_flex: Annotated[
        bool, typer.Option("--allow-flex", help="Allow operations in a .tflite that only TensorFlow has.")
    ] = False,
    allow_uncompared: Annotated[
        bool, typer.Option("--allow-uncompared", help="Allow an export that there are no images to compare on.")
    ] = False,
    trainable: Annotated[
        bool, typer.Option("--trainable", help="web: the page can learn new classes (run learn).")
    ] = False,
    flash_bytes: Annotated[
        int | None, typer.Option("--flash-bytes", min=1, help="embedded: most flash memory it may take.")
    ] = None,
    arena_bytes: Annotated[
        int | None, typer.Option("--arena-bytes", min=1, help="embedded: most working memory it may take.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a trained classifier. The result is compared with the trained model on its own runtime."""
    from kerasimg.deploy.bundle import PAGE
    from kerasimg.deploy.targets import target

    wanted = [target(name) for name in to]  # a wrong name, or a missing package, is reported before Keras starts
    if len(wanted) == 1:
        wanted[0].require()
    with keras_loaded(run):
        from kerasimg.deploy.export import export
    with waiting("exporting", as_json):
        bundles = export(
            run,
            to,
            precision=[name.value for name in precision] or None,
            batch=batch,
            out=out,
            data=data,
            tolerance=tolerance,
            same=same,
            accuracy_drop=accuracy_drop,
            images=images,
            input_dtype=input_dtype.value,
            allow_flex=allow_flex,
            allow_uncompared=allow_uncompared,
            trainable=trainable,
            flash_bytes=flash_bytes,
            arena_bytes=arena_bytes,
        )
    result = [{"bundle": str(bundle.folder), **bundle.manifest.model_dump(mode="json")} for bundle in bundles]
    text = []
    for bundle in bundles:
        page = bundle.folder / PAGE
        text.append(f"saved in {bundle.folder}" + (f"; demo: {page}" if page.is_file() else ""))
    print_result("export", result, text, as_json, bundle=bundles[0].folder if bundles else None)


@commands.command()
def serve(
    source: Annotated[
        list[Path],
        typer.Argument(metavar="RUN|BUNDLE...", help=f"{RUN_HELP} Or the folder of an exported bundle. Or several."),
    ],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; 127.0.0.1 is this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0: any free port.")] = 8000,
    workers: Annotated[int, typer.Option("--workers", help="Processes, each with a model of its own.")] = 1,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads of each process. Default: cores / workers.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="FILE", help="Path or precision of a model in the bundle. Default: the first one."
        ),
    ] = None,
    name: Annotated[
        list[str], typer.Option("--name", help="The model's name in requests; once for each. Default: the bundle's.")
    ] = [],  # noqa: B006 - typer needs a list
    device: Annotated[str, typer.Option("--device", help="cpu, or gpu: by ONNX Runtime, of an ONNX export.")] = "cpu",
    grpc_port: Annotated[
        int | None,
        typer.Option("--grpc-port", help="Port of the Open Inference Protocol over gRPC; 0: any free. Default: none."),
    ] = None,
    reload_s: Annotated[
        float, typer.Option("--reload", metavar="S", help="Seconds between looks for replaced bundles; 0: never.")
    ] = 1.0,
    top: Annotated[int, top_option("classes in an answer, the most likely")] = 5,
    max_mb: Annotated[float, typer.Option("--max-mb", help="Largest request, in MiB.")] = 16.0,
    max_megapixels: Annotated[float, typer.Option("--max-megapixels", help="Largest image, in million pixels.")] = 50.0,
    max_images: Annotated[int, typer.Option("--max-images", help="Most images in a request.")] = 32,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", help="Seconds for a request.")] = 30.0,
    max_batch: Annotated[int, typer.Option("--max-batch", help="Most images in one call of the model.")] = 8,
    max_wait_ms: Annotated[
        float, typer.Option("--max-wait-ms", help="How long an image waits for others that are being decoded.")
    ] = 2.0,
    queue: Annotated[int, typer.Option("--queue", help="Images in progress; more are refused with 429.")] = 128,
    connections: Annotated[int, typer.Option("--connections", help="Most open connections.")] = 1000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", metavar="FILE", help="Requests must send the key in this file, or in $KERASIMG_API_KEY."
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain/--no-explain", help="Whether requests may ask for heat maps.")
    ] = True,
    log: Annotated[bool, typer.Option("--log/--no-log", help="Log a line of JSON for each request.")] = True,
) -> None:
    """Classify images over HTTP. With an exported model, without TensorFlow."""
    from kerasimg.deploy.serve.server import serve
    from kerasimg.deploy.serve.settings import MEBIBYTE

    with messages(err=True):
        serve(
            [best_run(each) for each in source],
            api_key=None if api_key_file is None else _key(api_key_file),
            host=host,
            port=port,
            workers=workers,
            threads=threads,
            model=model,
            name=name,
            device=device,
            grpc_port=grpc_port,
            reload_s=reload_s,
            top=top,
            max_bytes=int(max_mb * MEBIBYTE),
            max_pixels=int(max_megapixels * 1e6),
            max_images=max_images,
            timeout_s=timeout,
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            queue=queue,
            connections=connections,
            explain=explain,
            log=log,
        )


def _key(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise CallError(f"--api-key-file: '{file}' cannot be read: {getattr(error, 'strerror', error)}") from None
