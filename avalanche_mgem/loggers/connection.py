"""Begins and ends W&B runs. They never ask for input, and they work without a key or a server."""

import os
import shlex
import sys
from typing import Any

import wandb

from avalanche_mgem.runs import printable

MODES = ("auto", "online", "offline", "disabled")


def start(mode: str, timeout: float, **options: Any) -> wandb.Run:
    """Begins a run and says in one line on standard error where it is.

    Other runs of this process go on.

    Args:
        mode: one of ``MODES``. ``"auto"`` takes the mode in ``WANDB_MODE``. Without that variable the run is
            online if an API key is configured, and offline if not.
        timeout: seconds to wait for the server, at the beginning and at the end.
        options: arguments of ``wandb.init``.

    Raises:
        ValueError: for an unknown mode, an online run without a key, or options that W&B refuses.
    """
    try:
        mode, why_offline = _choose(mode)
        return _begin(mode, why_offline, timeout, options)
    except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
        raise ValueError(f"W&B: {_first_line(error)}") from error
    except wandb.errors.CommError as error:
        # A failed attempt keeps the identifier until the teardown, which also ends this process's other runs.
        wandb.teardown()
        return _begin("offline", f"the server is not reached ({_first_line(error)})", timeout, options)


def finish(run: wandb.Run, exit_code: int) -> None:
    """Ends a run. If not all is uploaded in time, the rest stays on disk, and a line says so."""
    try:
        run.finish(exit_code=exit_code)
    except TimeoutError:
        _say(f"not all of the run was uploaded in time; {_how_to_upload(run)}")


def _begin(mode: str, why_offline: str | None, timeout: float, options: dict[str, Any]) -> wandb.Run:
    settings = wandb.Settings(
        silent=True,  # W&B prints a dozen lines for each run; _say prints one
        console="off",  # W&B would copy the progress bar
        init_timeout=timeout,
        finish_timeout=timeout,
        finish_timeout_raises=True,
    )
    run = wandb.init(mode=mode, reinit="create_new", resume="allow", settings=settings, **options)  # type: ignore[arg-type]
    if why_offline:
        _say(f"{why_offline}, so this run is offline; {_how_to_upload(run)}")
    elif mode == "online":
        _say(str(run.url))
    return run


def _choose(mode: str) -> tuple[str, str | None]:
    """The mode for ``wandb.init``, and the reason if a run is offline without having been asked to be."""
    source, chosen = "mode", mode
    if mode == "auto":
        # W&B's settings also know of `wandb offline`, but they miss changes after they were first read.
        source, chosen = "WANDB_MODE", os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if chosen not in MODES:
        raise ValueError(f"{source}={chosen!r}: allowed are {', '.join(map(repr, MODES))}.")
    if chosen != "online" or _has_key():
        return chosen, None
    if mode == "auto":
        return "offline", "no API key is configured"
    raise ValueError(
        "mode='online' needs an API key: run `wandb login`, set WANDB_API_KEY, or use mode='offline'."
    )


def _has_key() -> bool:
    settings = wandb.setup().settings
    if settings.api_key or settings.identity_token_file:
        return True
    # wandb.login looks for a key in more places, but refuses while the script has a run.
    return wandb.run is None and wandb.login(prompt=False, verify=False)


def _how_to_upload(run: wandb.Run) -> str:
    return f"upload it with: wandb sync {shlex.quote(os.path.relpath(run.settings.sync_dir))}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _say(message: str) -> None:
    sys.stderr.write(f"W&B: {printable(message)}\n")
