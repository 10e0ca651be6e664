"""`kerasimg.train`: spec and pictures in, a judged run out. `kerasimg.resume`: one that was cut off goes on."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kerasimg.catalog import Reference, own_weights
from kerasimg.data.cache import Cache
from kerasimg.data.check import OnBadImage, require_sound
from kerasimg.data.items import ManyFaults
from kerasimg.data.readers.soft_labels import digest
from kerasimg.data.sources import Data
from kerasimg.data.split import record, split
from kerasimg.errors import DataError, Fault, Interrupted, KerasimgError, listed
from kerasimg.evaluation.evaluate import judge
from kerasimg.evaluation.report import write_report
from kerasimg.models.classifier import Classifier
from kerasimg.models.graph import AS_THE_SPEC_SAYS
from kerasimg.run_folder import SPEC, TRAINING
from kerasimg.training import recall
from kerasimg.training.devices import devices_for
from kerasimg.training.distillation import locate_teacher
from kerasimg.training.experiment import Experiment, assemble, check_model, load_for, make_models
from kerasimg.training.interruption import patient
from kerasimg.training.loop import kept_until
from kerasimg.training.memory import train_in_memory
from kerasimg.training.run import Run
from kerasimg.training.sizes import size_of
from kerasimg.training.trial import is_out_of_memory, settle_choices

Say = Callable[[str], None]

IN_THE_PIPELINE = re.compile(rf"{ManyFaults.__name__}: (.*)")
"""How an error of TensorFlow names the picture that the pipeline could not read."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train(
    ref: Reference,
    *,
    data: Data,
    out: str | os.PathLike[str] = "runs",
    weights: Any = AS_THE_SPEC_SAYS,
    limits: Mapping[str, int] | None = None,
    on_bad_image: OnBadImage = "fail",
    cache: Any = "auto",
    report: bool = True,
    tensorboard: bool = False,
    set: Mapping[str, Any] | None = None,
    first_spec: Mapping[str, Any] | None = None,
    verbose: int | str = "auto",
    say: Say = print,
    **params: Any,
) -> Run:
    """Train the classifier of a spec, judge it on held-out pictures, and keep all of it in a new folder.

    ref: a zoo name, the path of a spec, a pack, whose weights it begins with, a dict, or a loaded spec.
    params, set: the spec's params, and edits by path.
    first_spec: the document that was chosen for the images, where the caller gave no spec; saved with the run.
    data: a folder with a folder per class, a manifest (.csv, .jsonl), an .npz, (images, labels), or "sample".
    out: the folder in which the run gets its own, `<name>-<k>`.
    weights, limits: as for `build`.
    on_bad_image: "fail" names every unreadable picture before the first epoch; "skip" leaves them out.
    cache: where decoded pictures are kept: "auto", "memory", "disk" or "off".
    report: write `report.html` and `MODEL_CARD.md` at the end, as `kerasimg.report` does at any later time.
    tensorboard: write the curves to `RUN/tensorboard` while it trains, for TensorBoard; needs the extra of that name.
    verbose: as for `keras.Model.fit`.  say: told in one line what is going on.

    Raises SpecError, DataError, WeightsError or CallError before the first epoch; afterwards KerasimgError when the
    loss is no number any more or something is in the way, and Interrupted after Ctrl-C: `resume` goes on from there.
    """
    if weights is AS_THE_SPEC_SAYS:
        weights = own_weights(ref) or weights
    spec, source = load_for(ref, data, set, params)
    Run.require_place(out)
    say(source.describe())
    spec, teacher = locate_teacher(spec)
    spec, tried = settle_choices(spec, source, limits, say)
    devices = devices_for(spec, say)
    sized = make_models(spec, weights, limits, devices)
    check_model(spec, source, sized)
    kept_pixels = cache if isinstance(cache, Cache) else Cache(cache)
    source = require_sound(
        source,
        on_bad_image,
        progress=lambda done, of: say(f"checked {done:,} of {of:,} pictures"),
        image=sized[size_of(spec.fit.stages[0], spec)].spec.image,
        cache=kept_pixels,
    )
    if source.skipped:
        say(f"{len(source.skipped):,} unreadable left out: {listed((one.id for one in source.skipped), 5)}")
    parts = split(source, spec.fit.validation_split, spec.fit.test_split, spec.fit.seed)
    experiment = assemble(spec, source, parts, sized, kept_pixels, devices)
    call = {"weights": recall.described(weights), "limits": limits and dict(limits), "cache": recall.kind_of(cache)}
    call |= {"report": report, "tensorboard": tensorboard}
    call |= {"soft_labels": digest(source, parts["train"])} if source.soft else {}
    call |= teacher | ({"tried": tried} if tried else {})
    kept = recall.located(record(source, parts), data)
    run = Run.create(out, spec.name, lambda draft: draft.write_start(spec, source.classes, kept, call))
    if first_spec is not None:
        run.write_first_spec(first_spec)
    say(f"training {', '.join(f'{part} {len(indices):,}' for part, indices in parts.items())} -> {run.folder}")
    return _carry_out(experiment, run, data, verbose, say)


def resume(
    run: Run | str | os.PathLike[str],
    *,
    data: Data | None = None,
    cache: Any = None,
    verbose: int | str = "auto",
    say: Say = print,
) -> Run:
    """Go on with a training that was cut off, by whatever it was, so that it ends as if it had not been.

    run: its folder.  data: the pictures, where they were arrays, or have moved; their content must be what it was, and
    the split stays what it was.  cache, verbose, say: as for `train`; None: as it was.

    On one machine, on the CPU in float32, what comes out is the same to the last bit. A finished run is left as it is.
    Raises CallError when the folder holds no run, DataError when a picture has gone or changed, WeightsError when a
    weights file that is still needed has.
    """
    run = Run.open(run.folder if isinstance(run, Run) else run)
    if run.finished:
        say(f"{run.folder} is finished; nothing is left to do")
        return run
    run.sweep()
    experiment = recall.experiment(run, data, cache, say)
    say(f"going on with {run.folder}: {kept_until(run)}")
    if others := run.other_surroundings():
        say(f"what comes out may differ in the last digits from the run undisturbed: {'; '.join(others)}")
    return _carry_out(experiment, run, data, verbose, say)


def _carry_out(experiment: Experiment, run: Run, data: Data | None, verbose: int | str, say: Say) -> Run:
    """Train, save, judge and report, as far as that is still to be done."""
    asked = run.read_json(TRAINING)
    with _telling(run):
        with patient(say) as interruption:
            experiment = train_in_memory(experiment, run, data, interruption, verbose, say)
        classifier = Classifier(experiment.built.model, experiment.spec, experiment.source.classes, run.folder)
        classifier.save(run.files.model_file)
        if (part := experiment.held_out) is not None:
            say(f"judging it on {len(experiment.parts[part]):,} pictures ({part})")
            judge(classifier, experiment.source, experiment.parts[part], run.files.evaluation.path, part=part)
        run.finish()
        if asked["report"]:
            say(f"writing {run.files.report_file}")
            write_report(run, say, classifier)
    return run


@contextmanager
def _telling(run: Run) -> Iterator[None]:
    """Whatever ends a training early is told with what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {_how_to_go_on(run)}") from None
    except Interrupted as error:
        raise Interrupted(f"{error}; {_how_to_go_on(run)}") from None
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = error.filename or run.folder
        raise KerasimgError(f"no room is left to write {where}: make some; {_how_to_go_on(run)}") from error
    except DataError as error:
        raise ManyFaults([*error.faults, Fault("", "", _how_to_go_on(run))]) from error
    except KerasimgError:
        raise  # it says all
    except Exception as error:
        if named := IN_THE_PIPELINE.search(str(error)):
            raise ManyFaults([Fault("", "", named[1]), Fault("", "", _how_to_go_on(run))]) from None
        if is_out_of_memory(error):
            size = run.read_json(SPEC)["fit"]["batch_size"]
            smaller = f"with a smaller one (--set fit.batch_size={size // 2}, or auto)"
            advice = smaller if size > 1 else "with smaller pictures (image.size) or a smaller model"
            raise KerasimgError(
                f"the memory does not suffice for batches of {size} pictures: train anew {advice}, or make room and "
                f"go on; {_how_to_go_on(run)}"
            ) from error
        error.add_note(_how_to_go_on(run))
        raise


def _how_to_go_on(run: Run) -> str:
    if run.finished:
        return f"the training is finished, and kept in {run.folder}; for its report: kerasimg run report {run.folder}"
    return f"{kept_until(run)}; to go on: kerasimg train --resume {run.folder}"
