"""The training loop: one model, one criterion (spec section 9). What is trained, and by which loss, is a ``Task``."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unias.config import TrainConfig
from unias.errors import Interrupted, TrainingError, UsageError
from unias.memory import peak_memory
from unias.progress import Progress
from unias.runtime import step_seed
from unias.training.batches import Batch, Batches
from unias.training.budget import Budget
from unias.training.checkpoint import STATE_FILE, TrainState, load_state, save_state
from unias.training.task import Task

LOG_EVERY = 10


@dataclass(frozen=True)
class Outcome:
    """What training came to."""

    steps: int
    epochs: float
    seconds: float
    first_loss: float
    last_loss: float  # mean of the last 50 steps
    resumed_at: int
    elapsed_before: float = 0.0  # seconds of the run in earlier sittings, as far as their steps were kept
    peak_before: float = 0.0  # MiB, of earlier sittings


class Averaged:
    """Exponential moving average of the weights; early on it forgets faster, so that the start does not linger."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()} if decay else {}

    @torch.no_grad()
    def update(self, model: torch.nn.Module, step: int) -> None:
        if not self.values:
            return
        weight = 1 - min(self.decay, (step + 1) / (step + 10))
        current = model.state_dict()
        names = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.values[n] for n in names], [current[n] for n in names], weight)


class Trainer:
    """Runs the steps of one training run, from the first or from a saved state.

    Args:
        fabric: a Lightning Fabric: it owns device, precision and loggers.
        state_folder: where the state for --resume lies while training.
        fingerprint: data, split and settings in one word; a state with another is refused.
        reserve: seconds that statistics, cuts and writing will take, asked once the steps are timed.
        started: when the run began, by ``time.monotonic``; None = now.
    """

    def __init__(
        self,
        task: Task,
        batches: Batches,
        config: TrainConfig,
        fabric: Any,
        state_folder: Path,
        fingerprint: str,
        progress: Progress,
        budget: Budget | None = None,
        reserve: Callable[[], float] = lambda: 0.0,
        started: float | None = None,
    ) -> None:
        self.config = config
        self.started = time.monotonic() if started is None else started
        self.batches = batches
        self.fabric = fabric
        self.state_folder = state_folder
        self.fingerprint = fingerprint
        self.progress = progress
        self.budget = budget
        self.reserve = reserve
        self.task = task
        self.plain = task.module
        self.model, *self.optimizers = fabric.setup(task.module, *task.optimizers(fabric.device))
        self.averaged = Averaged(task.module, task.ema)
        self.losses: list[float] = []
        self.asked_to_stop = self.cut_short = False
        self.seconds_before = self.elapsed_before = self.peak_before = 0.0

    def fit(self, resume: bool) -> Outcome:
        """Train; the model ends with its averaged weights where the settings ask for them.

        Raises:
            TrainingError: a loss that is not finite; names step and files.
            Interrupted: Ctrl-C; the state was kept.
        """
        state = load_state(self.state_folder, self.fingerprint) if resume else None
        start, total = 0, self._planned()
        if state is not None:
            if total is not None and self.config.steps is not None and total != state.total_steps:
                raise UsageError(
                    f"--resume: the unfinished run has {state.total_steps} steps, not {total}. Leave --steps out, or train anew."
                )
            self._restore(state)
            start, total = state.step, state.total_steps
            self.progress.say(f"resumed at step {start} of {total}")
        elif resume:
            self.progress.say("nothing to resume: training starts anew")
        began = time.monotonic()
        self.model.train()
        done = start
        try:
            with self._calm_interrupt():
                if total is None:
                    done, total = self._probe(began)
                self._steps(done, total, began)
        except KeyboardInterrupt as error:
            kept = (self.state_folder / STATE_FILE).exists()
            if self.cut_short:
                raise Interrupted(
                    "training was stopped in the middle of a step: "
                    + (
                        f"the state kept last is in {self.state_folder}. Run the same command with --resume to go on from it."
                        if kept
                        else "nothing had been kept yet. Run the same command again."
                    )
                ) from error
            if kept:
                raise Interrupted(
                    f"training was interrupted; its state is in {self.state_folder}. Run the same command with --resume to go on."
                ) from error
            raise Interrupted(
                "training was interrupted before its first steps were done; run the same command again."
            ) from error
        for logger in self.fabric.loggers:
            logger.finalize("success")
        if self.averaged.values:
            self.plain.load_state_dict(self.averaged.values)
        self.plain.eval()
        recent = self.losses[-50:]
        return Outcome(
            steps=total,
            epochs=total / self.batches.steps_per_epoch,
            seconds=self.seconds_before + time.monotonic() - began,
            first_loss=self.losses[0],
            last_loss=sum(recent) / len(recent),
            resumed_at=start,
            elapsed_before=self.elapsed_before,
            peak_before=self.peak_before,
        )

    def _planned(self) -> int | None:
        """The number of steps, or None where the minutes decide."""
        if self.config.steps is not None:
            return self.config.steps
        if self.budget is not None:
            return None
        return self.config.epochs * self.batches.steps_per_epoch

    def _probe(self, began: float) -> tuple[int, int]:
        """Time real steps (at most the warm-up, at most a tenth of the budget), then fix the number of steps."""
        assert self.budget is not None
        times: list[float] = []
        last = time.monotonic()
        done = 0
        with self.progress.stage("timing steps", None) as advance:
            for batch in self.batches.steps(0, max(self.task.probe_steps, 1)):
                self._step(done, None, batch)
                done += 1
                advance(1, f"loss {self.losses[-1]:.3f}")
                self._stop_if_asked()
                now = time.monotonic()
                times.append(now - last)
                last = now
                if done >= 5 and now - began > 0.1 * self.budget.minutes * 60:
                    break
        settled = sorted(times[1:] or times)
        self.budget.reserve = self.reserve()
        mean = sum(settled[: max(1, int(len(settled) * 0.95))]) / max(1, int(len(settled) * 0.95))
        mean *= self.task.times_first(batch)
        total = self.budget.steps_that_fit(done, mean)
        self.progress.say(
            f"{mean * 1000:.0f} ms a step: {total} steps in {self.budget.minutes:g} minutes"
            f" (repeat exactly with --steps {total}{self.budget.also()})"
        )
        return done, total

    def _steps(self, start: int, total: int, began: float) -> None:
        kept = time.monotonic()
        if start >= total:
            return
        with self.progress.stage("training", total, start) as advance:
            done, whole = start, True
            try:
                for batch in self.batches.steps(start, total):
                    whole = False
                    self._step(done, total, batch)
                    done, whole = done + 1, True
                    advance(1, f"loss {self.losses[-1]:.3f}")
                    self._stop_if_asked()
                    if time.monotonic() - kept > self.config.checkpoint_minutes * 60 and done < total:
                        self._keep(done, total, began)
                        kept = time.monotonic()
            except KeyboardInterrupt:
                self.cut_short = not whole  # a second Ctrl-C does not wait: half a step must not be kept
                if whole:
                    self._keep(done, total, began)
                raise

        self._keep(total, total, began)  # what follows (statistics, cuts, writing) may fail: the training is not lost

    @contextlib.contextmanager
    def _calm_interrupt(self) -> Iterator[None]:
        """Ctrl-C waits for the end of the step, so that the state kept is a whole one; a second one does not wait."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(_number: int, _frame: object) -> None:
            if self.asked_to_stop:
                raise KeyboardInterrupt
            self.asked_to_stop = True
            self.progress.say("finishing this step; Ctrl-C once more stops at once and keeps less")

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _stop_if_asked(self) -> None:
        if self.asked_to_stop:
            raise KeyboardInterrupt

    def _step(self, step: int, total: int | None, batch: Batch) -> None:
        torch.manual_seed(step_seed(self.config.seed, step))
        share = self.task.share(step, total, self.batches.steps_per_epoch)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * share
        self.task.prepare(step, total)
        loss = self.task.loss(self.task.forward(self.model, batch), batch)
        value = float(loss.total.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss of step {step} is {value}; its photos: {', '.join(batch.names)}. Look at these files, or try a "
                "lower learning rate."
            )
        self.plain.zero_grad(set_to_none=True)
        self.fabric.backward(loss.total)
        if self.task.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.plain.parameters(), self.task.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.averaged.update(self.plain, step)
        self.losses.append(value)
        if step % LOG_EVERY == 0 and self.fabric.loggers:
            terms = {name: float(term.detach()) for name, term in loss.terms.items()}
            rate = self.optimizers[0].param_groups[0]["lr"]
            self.fabric.log_dict({"loss": value, "learning_rate": rate, **terms}, step=step)

    def _keep(self, step: int, total: int, began: float) -> None:
        save_state(
            self.state_folder,
            TrainState(
                step=step,
                total_steps=total,
                fingerprint=self.fingerprint,
                model=self.plain.state_dict(),
                optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
                averaged=self.averaged.values,
                seconds=self.seconds_before + time.monotonic() - began,
                elapsed=self.elapsed_before + time.monotonic() - self.started,
                peak_mib=max(self.peak_before, peak_memory() or 0.0),
                losses=self.losses,
            ),
        )

    def _restore(self, state: TrainState) -> None:
        self.plain.load_state_dict(state.model)
        for optimizer, kept in zip(self.optimizers, state.optimizers, strict=True):
            optimizer.load_state_dict(kept)
        for name, value in state.averaged.items():
            self.averaged.values[name].copy_(value)
        self.losses = list(state.losses)
        self.seconds_before, self.elapsed_before, self.peak_before = state.seconds, state.elapsed, state.peak_mib


def build_fabric(device: torch.device, precision: str, loggers: list[Any]) -> Any:
    """Lightning Fabric on one device."""
    from lightning_fabric import Fabric

    accelerator = {"cuda": "cuda", "mps": "mps"}.get(device.type, "cpu")
    devices: Any = [device.index or 0] if device.type == "cuda" else 1
    return Fabric(accelerator=accelerator, devices=devices, precision=precision, loggers=loggers)  # type: ignore[arg-type]
