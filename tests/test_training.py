"""The training loop: the same gradient, the same numbers after a kill, the same result on two processes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from kdoct_utils.learn import checkpoints
from kdoct_utils.learn.augment import augment
from kdoct_utils.learn.checkpoints import CheckpointError, TrainingError
from kdoct_utils.learn.inference import ScanImages, predict_logits
from kdoct_utils.learn.models import build_model, state_copy
from kdoct_utils.learn.objectives import CrossEntropyObjective, DistillationObjective
from kdoct_utils.learn.pipelines import STUDENT, AugmentConfig
from kdoct_utils.learn.schedules import epoch_batches, learning_rate_factor
from kdoct_utils.learn.trainer import Trainer, TrainingResult
from kdoct_utils.profiles import ModelConfig, TrainingConfig

SIZE = 32
CONVNEXT = ModelConfig("convnextv2_atto", dropout=0.0, options={"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)})
EFFICIENTNET = ModelConfig("efficientnet_course_tiny", dropout=0.0)
CONFIG = TrainingConfig(
    epochs=3, batch_size=8, accumulation=1, learning_rate=2e-3, backbone_learning_rate=1e-3, weight_decay=0.05,
    warmup_epochs=0.5, minimum_learning_rate=2e-5, patience=10, frozen_epochs=0, select_on="loss",
)  # fmt: skip


def make_scans(n: int, first: int = 0) -> ScanImages:
    """n noisy scans of three classes: a bright band high, in the middle or low. Their indices begin at ``first``."""
    rng = np.random.default_rng(first)
    target = np.arange(n) % 3
    images = rng.integers(0, 90, (n, 35, 35), dtype=np.uint8)
    for image, label in zip(images, target, strict=True):
        image[5 + 10 * label : 10 + 10 * label] += 120
    return ScanImages(images, target, np.arange(first, first + n))


def make_trainer(
    objective=None, config: TrainingConfig = CONFIG, network: ModelConfig = CONVNEXT, **changes
) -> Trainer:
    arguments = {
        "train_set": make_scans(30), "validation_set": make_scans(9, first=100), "augmentation": STUDENT,
        "image_size": SIZE, "channels": 1, "seed": 4, "progress": False,
    } | changes  # fmt: skip
    model = arguments.pop("model", None) or build_model(network, 3, 1, seed=1)
    return Trainer(model, objective or CrossEntropyObjective(), config=config, **arguments)


def same_weights(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def numbers(result: TrainingResult) -> str:
    """The history without its wall times, exactly."""
    return result.history.drop(columns="seconds").to_json(double_precision=15)


class Interrupted(CrossEntropyObjective):
    """Raises in its ``at``-th batch, as a kill would."""

    def __init__(self, at: int):
        super().__init__()
        self.calls, self.at = 0, at

    def forward(self, *arguments):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().forward(*arguments)

    def describe(self) -> dict:
        return CrossEntropyObjective().describe()


class Scripted(CrossEntropyObjective):
    """Validation losses from a list, one a call; keeps the weights of the model at each."""

    def __init__(self, losses: list[float]):
        super().__init__()
        self.losses, self.seen, self.model = list(losses), [], None

    def validation_losses(self, logits, target):
        self.seen.append(state_copy(self.model))
        return torch.full((len(target),), float(self.losses[len(self.seen) - 1]))


def train_scripted(losses: list[float], **changes) -> tuple[Trainer, TrainingResult, Scripted]:
    objective = Scripted(losses)
    trainer = make_trainer(objective, **changes)
    objective.model = trainer.model
    return trainer, trainer.fit(), objective


# --- learning -------------------------------------------------------------------------------------------------------


def test_learns_bands_and_reports_what_it_did():
    config = replace(CONFIG, epochs=12, learning_rate=1e-2, backbone_learning_rate=1e-2)
    trainer = make_trainer(config=config, network=EFFICIENTNET, augmentation=AugmentConfig("plain"))
    result = trainer.fit()
    assert " ".join(result.history.columns) == (
        "epoch train_loss validation_loss validation_accuracy learning_rate seconds weights"
    )
    assert len(result.history) == 12 and result.chosen == "best" and result.scores["best"]["accuracy"] == 1.0
    best = result.history[result.history.weights == "best"]
    assert best.validation_loss.tolist() == [result.history.validation_loss.min()] == [result.scores["best"]["loss"]]
    held = trainer.validation_set  # the model holds the weights that the scores are about
    logits = torch.from_numpy(predict_logits(trainer.model, held, SIZE, 1))
    assert functional.cross_entropy(logits, held.target).item() == pytest.approx(best.validation_loss.item(), rel=1e-5)


def test_one_seed_gives_identical_weights_and_another_does_not():
    weights, results = [], []
    for seed in (4, 4, 5):
        trainer = make_trainer(network=replace(CONVNEXT, dropout=0.3, drop_path=0.2), seed=seed)
        torch.rand(3)  # the state of the global generator must not matter
        results.append(numbers(trainer.fit()))
        weights.append(trainer.model.state_dict())
    assert same_weights(*weights[:2]) and results[0] == results[1]
    assert not same_weights(weights[0], weights[2])


def test_status_names_the_training_and_its_epoch(tmp_path, monkeypatch):
    status, seen = tmp_path / "status", []

    class Watching(CrossEntropyObjective):
        def forward(self, *arguments):
            seen.append((status.read_text(), torch.get_num_threads()))
            return super().forward(*arguments)

    monkeypatch.setenv("KDOCT_STATUS", str(status))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    make_trainer(Watching(), config=replace(CONFIG, epochs=2, threads=1), name="student KD, seed 2").fit()
    assert seen[::4] == [(f"student KD, seed 2, epoch {epoch}/2", 1) for epoch in (1, 2)]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


# --- gradients and rates --------------------------------------------------------------------------------------------


def test_accumulation_with_a_tail_averages_over_images():
    """30 scans in four batches of 8, 8, 7 and 7, three a step: the first step is of 23 scans, the last of 7."""
    config = replace(CONFIG, epochs=1, accumulation=3, gradient_clip=1e9, frozen_epochs=0)
    trainer = make_trainer(config=config)
    data, found, expected, over_batches = trainer.train_set, [], [], []

    def mean_gradient(positions: np.ndarray) -> torch.Tensor:
        images, target, indices = data.take(positions)
        logits = trainer.model(augment(images, indices, STUDENT, 4, 0, SIZE, 1))
        gradients = torch.autograd.grad(functional.cross_entropy(logits, target), list(trainer.model.parameters()))
        return torch.cat([gradient.flatten() for gradient in gradients])

    groups = iter(epoch_batches(30, 8, 3, seed=4, epoch=0))
    real_step = trainer.optimizer.step

    def step():
        batches, _ = next(groups)
        found.append(torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()]))
        expected.append(mean_gradient(np.concatenate(batches)))
        over_batches.append(torch.stack([mean_gradient(batch) for batch in batches]).mean(dim=0))
        real_step()

    trainer.optimizer.step = step
    trainer.fit()
    assert len(found) == 2
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)
    assert (found[0] - over_batches[0]).abs().max() > 1e-4  # the mean of the batches' means is another gradient


def test_groups_follow_the_schedule_to_their_own_floors_with_clipped_gradients():
    seen, norms = [], []
    trainer = make_trainer(config=replace(CONFIG, gradient_clip=0.01))
    real_step = trainer.optimizer.step

    def step():
        seen.append({group["name"]: group["lr"] for group in trainer.optimizer.param_groups})
        norms.append(torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()]).norm().item())
        real_step()

    trainer.optimizer.step = step
    trainer.fit()
    np.testing.assert_allclose(norms, 0.01, rtol=1e-3)
    factors = [learning_rate_factor(step, 12, 2, 0.01) for step in range(12)]
    for part, peak in (("head", 2e-3), ("backbone", 1e-3)):
        np.testing.assert_allclose([rates[part] for rates in seen], np.multiply(peak, factors))


def test_frozen_backbone_moves_only_after_its_epochs():
    _, _, objective = train_scripted([3, 2, 1], config=replace(CONFIG, frozen_epochs=2))
    start = build_model(CONVNEXT, 3, 1, seed=1).state_dict()
    moved = [{name for name in start if not torch.equal(start[name], weights[name])} for weights in objective.seen]
    assert moved[0] and all(name.startswith("head.") for name in moved[1])
    assert "stem.0.weight" in moved[2]


# --- killed, and gone on --------------------------------------------------------------------------------------------

EVENTFUL = replace(  # every epoch another event: frozen, free, averaging
    CONFIG, epochs=4, accumulation=2, frozen_epochs=1, swa_learning_rate=1e-3, swa_start=0.5
)


def test_a_killed_run_goes_on_to_identical_numbers_and_a_finished_one_is_not_trained_again(tmp_path):
    # Killed in the first epoch, between epochs, inside epochs (four batches an epoch), and after the end.
    for network, when in ((CONVNEXT, ([2], [5], [11, 2], [])), (EFFICIENTNET, ([11, 2],))):
        network = replace(network, dropout=0.3)
        whole = make_trainer(config=EVENTFUL, network=network, checkpoint=tmp_path / f"{network.architecture}_[]")
        expected = whole.fit()
        for kills in when:
            checkpoint = tmp_path / f"{network.architecture}_{kills}"
            for at in kills:
                with pytest.raises(KeyboardInterrupt):
                    make_trainer(Interrupted(at), EVENTFUL, network, checkpoint=checkpoint).fit()
            objective = CrossEntropyObjective() if kills else Interrupted(1)  # whose first call would raise
            trainer = make_trainer(objective, EVENTFUL, network, checkpoint=checkpoint)
            result = trainer.fit()
            assert numbers(result) == numbers(expected), kills
            assert result.chosen == expected.chosen and result.scores == expected.scores
            assert same_weights(trainer.model.state_dict(), whole.model.state_dict()), kills


def test_a_kill_while_the_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoint = tmp_path / "teacher.safetensors"
    expected = make_trainer().fit()
    real_save, calls = checkpoints.save_file, []

    def save(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half a file")
            raise OSError("no space left on device")
        real_save(tensors, path, metadata)

    monkeypatch.setattr(checkpoints, "save_file", save)
    with pytest.raises(OSError, match="no space"):
        make_trainer(checkpoint=checkpoint).fit()
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]
    assert numbers(make_trainer(checkpoint=checkpoint).fit()) == numbers(expected)


def test_checkpoint_of_another_run_or_a_damaged_one_is_refused_by_name(tmp_path):
    checkpoint, config = tmp_path / "teacher.safetensors", replace(CONFIG, epochs=1)
    make_trainer(config=config, checkpoint=checkpoint).fit()
    smaller = replace(CONVNEXT, options=CONVNEXT.options | {"dims": (8, 8, 8, 8)})
    for named, changes in {
        "training": {"config": replace(config, learning_rate=1e-4)},
        "seed": {"seed": 5},
        "objective": {"objective": CrossEntropyObjective(label_smoothing=0.1)},
        "augmentation": {"augmentation": AugmentConfig("plain")},
        "scans": {"train_set": make_scans(27)},
        "network": {"network": smaller},
    }.items():
        with pytest.raises(CheckpointError, match=f"teacher.safetensors belongs to another.*{named}.* differ"):
            make_trainer(**({"config": config, "checkpoint": checkpoint} | changes)).fit()
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="teacher.safetensors is damaged"):
        make_trainer(config=config, checkpoint=checkpoint).fit()


# --- not a number ---------------------------------------------------------------------------------------------------


def test_nan_loss_is_one_clear_error_and_the_checkpoint_stays(tmp_path):
    checkpoint = tmp_path / "teacher.safetensors"

    class Breaking(Interrupted):
        def forward(self, *arguments):
            self.calls += 1
            losses, logits = CrossEntropyObjective.forward(self, *arguments)
            return losses * (float("nan") if self.calls == self.at else 1.0), logits

    with pytest.raises(TrainingError, match="loss is nan in epoch 2, step 3.*intact"):
        make_trainer(Breaking(4 + 3), checkpoint=checkpoint).fit()
    # Nor are weights saved that broke in the last step of an epoch: no loss of training comes after it.
    trainer = make_trainer(checkpoint=checkpoint)
    real_step, calls = trainer.optimizer.step, []

    def step():
        real_step()
        calls.append(1)
        if len(calls) == 4:
            trainer.model.head.fc.weight.data.fill_(float("inf"))

    trainer.optimizer.step = step
    with pytest.raises(TrainingError, match="validation loss is nan after epoch 2"):
        trainer.fit()
    assert all(value.isfinite().all() for value in load_file(checkpoint).values())
    assert numbers(make_trainer(checkpoint=checkpoint).fit()) == numbers(make_trainer().fit())


# --- weight averaging and early stopping ----------------------------------------------------------------------------

AVERAGING = replace(CONFIG, epochs=4, swa_learning_rate=1e-3, swa_start=0.5)


def test_average_is_the_mean_of_the_weights_and_is_used_only_where_it_wins():
    for average_loss, chosen in ((0.1, "swa"), (0.3, "best")):
        trainer, result, objective = train_scripted([0.5, 0.3, 0.6, 0.7, average_loss], config=AVERAGING)
        assert result.chosen == chosen
        assert result.scores["best"]["loss"] == pytest.approx(0.3) and result.scores["best"]["epoch"] == 1
        assert result.scores["swa"]["loss"] == pytest.approx(average_loss)
        assert result.history.weights.tolist() == ["", "best", "", "", "swa"]
        np.testing.assert_allclose(result.history.learning_rate[2:4], 1e-3)
        mean = {name: (objective.seen[2][name] + objective.seen[3][name]) / 2 for name in objective.seen[2]}
        wanted = mean if chosen == "swa" else objective.seen[1]
        for name, value in trainer.model.state_dict().items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-6, atol=1e-7, msg=name)
        assert not same_weights(objective.seen[2], objective.seen[3])


def test_average_of_a_network_with_batch_norm_gets_new_statistics():
    trainer, result, objective = train_scripted([1, 1, 1, 1, 0.5], config=AVERAGING, network=EFFICIENTNET)
    assert result.chosen == "swa"
    norm, means = trainer.model.bn1, []
    for (batch,), _ in epoch_batches(30, 8, 1, seed=4, epoch=3):
        images, _, indices = trainer.train_set.take(batch)
        with torch.no_grad():
            features = trainer.model.conv_stem(augment(images, indices, STUDENT, 4, 3, SIZE, 1))  # (batch, 8, 16, 16)
        means.append(features.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(dim=0), rtol=1e-4, atol=1e-5)
    assert (norm.running_mean - objective.seen[3]["bn1.running_mean"]).abs().max() > 1e-4


def test_early_stopping_counts_epochs_without_a_better_loss_and_accuracy_breaks_ties_by_loss():
    _, result, _ = train_scripted([5, 4, 4, 4.5, 3, 2], config=replace(CONFIG, epochs=6, patience=2))
    assert result.history.epoch.tolist() == [0, 1, 2, 3]
    assert result.scores["best"]["epoch"] == 1
    still = {"learning_rate": 1e-12, "backbone_learning_rate": 1e-12, "minimum_learning_rate": 0.0}
    config = replace(CONFIG, epochs=4, select_on="accuracy", **still)
    _, result, _ = train_scripted([3, 1, 2, 1], config=config)  # weights and so accuracy stand still
    assert result.history.validation_accuracy.nunique() == 1
    assert result.scores["best"]["epoch"] == 1


def test_early_stopping_brings_the_average_forward_from_the_best_weights():
    """At most 12 epochs of which 3 average; patience ends at the fourth, so averaging is epochs 5 to 7."""
    losses = [5, 4, 6, 7] + [8, 8, 8] + [1]
    config = replace(AVERAGING, epochs=12, swa_start=0.75, patience=2, swa_learning_rate=1e-12, weight_decay=0.0)
    trainer, result, objective = train_scripted(losses, config=config)
    assert result.history.epoch.tolist() == [0, 1, 2, 3, 4, 5, 6, 6]
    assert result.history.weights.tolist() == ["", "best"] + [""] * 5 + ["swa"]
    assert result.chosen == "swa"
    for name, value in trainer.model.state_dict().items():  # the rate is too small to move away from the best
        torch.testing.assert_close(value, objective.seen[1][name], rtol=1e-5, atol=1e-7)


def test_last_keeps_the_end_of_the_schedule_whatever_the_scores():
    config = replace(CONFIG, epochs=4, patience=1, select_on="last")
    trainer, result, objective = train_scripted([1, 2, 3, 4], config=config)
    assert result.history.weights.tolist() == ["", "", "", "best"]
    assert same_weights(trainer.model.state_dict(), objective.seen[0]) and len(objective.seen) == 1  # scored once
    assert result.history.validation_loss.isna().tolist() == [True, True, True, False]
    _, averaged, _ = train_scripted([1, 2, 3, 4, 5], config=replace(AVERAGING, select_on="last"))
    assert averaged.chosen == "swa"


def test_both_weights_of_a_training_can_be_loaded():
    trainer, loaded = make_trainer(config=AVERAGING, network=EFFICIENTNET), {}
    chosen = trainer.fit().chosen
    kept = state_copy(trainer.model)
    for weights in ("best", "swa"):
        trainer.load(weights)
        assert not trainer.model.training
        loaded[weights] = state_copy(trainer.model)
    assert same_weights(loaded[chosen], kept) and not same_weights(loaded["best"], loaded["swa"])
    with pytest.raises(ValueError, match="no weights 'swa'; it can have: best, swa"):
        make_trainer().load("swa")


# --- input that cannot be trained on --------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_named():
    for role in ("training", "validation"):
        name = {"training": "train_set", "validation": "validation_set"}[role]
        with pytest.raises(ValueError, match=f"the {role} set holds no scan"):
            make_trainer(**{name: make_scans(3).subset(np.arange(0))})
    with pytest.raises(ValueError, match="unknown select_on 'acuracy'; valid: loss, accuracy, last"):
        make_trainer(config=replace(CONFIG, select_on="acuracy"))
    if not torch.accelerator.is_available():
        with pytest.warns(UserWarning, match="fp16 needs a GPU.*float32"):
            make_trainer(config=replace(CONFIG, precision="fp16"))


# --- more processes, less precision: each in processes of its own --------------------------------------------------


def run_script(arguments: list[str], script: str, folder: Path) -> None:
    (folder / "script.py").write_text(script)
    here = Path(__file__).parent
    settings = {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *arguments, str(folder / "script.py"), str(folder)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


TWO_PROCESSES = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from test_training import CONFIG, EFFICIENTNET, EVENTFUL, CrossEntropyObjective, Interrupted, make_trainer
from kdoct_utils.learn.models import save_weights

folder = Path(sys.argv[1])
checkpoint = folder / "checkpoint.safetensors"


class Killed(Interrupted):
    def forward(self, *arguments):
        try:
            return super().forward(*arguments)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory ends


fatal = os.environ["RANK"] == "1" and not checkpoint.exists()
trainer = make_trainer(Killed(10) if fatal else CrossEntropyObjective(), replace(EVENTFUL, batch_size=4),
                       checkpoint=checkpoint)
assert trainer.processes == 2
result = trainer.fit()
if trainer.accelerator.is_main_process:
    save_weights(trainer.model, folder / "model.safetensors")
    result.history.to_json(folder / "history.json")
student = make_trainer(config=replace(CONFIG, epochs=2, batch_size=4), network=EFFICIENTNET)
student.fit()
save_weights(student.model, folder / f"student_{student.accelerator.process_index}.safetensors")
"""


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch_though_one_is_killed(tmp_path):
    """Frozen epochs, an accumulation tail and averaging; gloo on CPU. One process is killed in the third epoch: the
    other ends too, the cause is named, the checkpoint stays, and the next start goes on from there."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with pytest.raises(AssertionError, match=r"(?s)SIGKILL|Signal 9|exitcode\s*: -9"):
        run_script(launch, TWO_PROCESSES, tmp_path)
    assert (tmp_path / "checkpoint.safetensors").exists() and not (tmp_path / "model.safetensors").exists()
    run_script(launch, TWO_PROCESSES, tmp_path)
    one = make_trainer(config=EVENTFUL)
    expected = one.fit().history
    history = json.loads((tmp_path / "history.json").read_text())
    for column in ("train_loss", "validation_loss", "validation_accuracy"):
        found = np.array([np.nan if value is None else value for value in history[column].values()])
        np.testing.assert_allclose(found, expected[column], rtol=1e-4, err_msg=column)
    for name, value in load_file(tmp_path / "model.safetensors").items():
        torch.testing.assert_close(value, one.model.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)
    students = [load_file(tmp_path / f"student_{process}.safetensors") for process in range(2)]
    assert same_weights(*students)  # BatchNorm statistics too, though each process gathers its own


@pytest.mark.slow
def test_bf16_trains_like_float32(tmp_path):
    """In a process of its own: Accelerate's precision is one for a process."""
    script = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from test_training import CONFIG, CONVNEXT, make_trainer
from kdoct_utils.learn.models import build_model
from kdoct_utils.learn.objectives import DistillationObjective

teacher = build_model(CONVNEXT, 3, 1, seed=8)
trainer = make_trainer(DistillationObjective(teacher, 4.0, 0.7), replace(CONFIG, precision="bf16"))
seen = []
for network in (teacher, trainer.model):
    network.stem[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
trainer.fit().history.to_json(Path(sys.argv[1]) / "history.json")
assert set(seen) == {torch.bfloat16}, set(seen)  # the teacher too runs inside autocast
assert {value.dtype for value in trainer.model.parameters()} == {torch.float32}
assert trainer.model(torch.zeros(1, 1, 32, 32)).dtype == torch.float32  # handed back bare
"""
    run_script([], script, tmp_path)
    objective = DistillationObjective(build_model(CONVNEXT, 3, 1, seed=8), 4.0, 0.7)
    expected = make_trainer(objective, CONFIG).fit().history
    history = json.loads((tmp_path / "history.json").read_text())
    np.testing.assert_allclose(list(history["train_loss"].values()), expected.train_loss, rtol=0.02)
