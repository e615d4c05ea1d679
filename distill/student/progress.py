"""Lightning's account of how far training is, held against the loader's."""

from __future__ import annotations

from typing import Any


def mend_progress(checkpoint: dict[str, Any]) -> None:
    """Make Lightning's counts agree with the loader's about whether the epoch was over, so that no batch is skipped.

    Lightning counts an epoch that max_steps, max_time or an early stop cuts short as processed, and would not go on inside
    it. And where only max_steps ends a run, it takes the last batch of a whole epoch for one of the
    next, which it then ends at once.
    """
    fit_loop = checkpoint.get("loops", {}).get("fit_loop", {})
    for loader in fit_loop.get("state_dict", {}).get("combined_loader", []):
        epochs, batches = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
        if epochs["current"]["processed"] <= loader["epoch"]:
            continue
        if loader["batches"] < loader["batches_in_epoch"]:
            for counts in epochs.values():
                counts["processed"] = counts["completed"] = counts["started"] - 1
        else:
            for counts in epochs.values():
                counts["completed"] = counts["processed"]
            batches["current"] = dict.fromkeys(batches["current"], 0)
            batches["is_last_batch"] = False
