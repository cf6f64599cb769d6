"""Evaluations on disk: a folder with ``result.json`` and, beside it, ``answers.npz``.

In: an evaluation and a folder. Out: its two files, each whole or not at all; the result is written last, so that where
it stands the answers do too. Refused: a folder that holds no evaluation, or a damaged one.
"""

import json
from pathlib import Path

from medfinder.errors import DatasetError
from medfinder.evaluation.answers import read_answers
from medfinder.evaluation.evaluate import Evaluation
from medfinder.sources.files import write_whole

RESULT, ANSWERS = "result.json", "answers.npz"


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write an evaluation into a folder; what lies there of an earlier one is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    evaluation.answers.write(folder / ANSWERS)
    write_whole(folder / RESULT, (json.dumps(evaluation.result, indent=2) + "\n").encode())


def read_evaluation(folder: Path) -> Evaluation:
    """Read an evaluation back.

    Raises:
        DatasetError: the folder holds none, or it is damaged.
    """
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"no {RESULT} in {folder}; make one: medfinder evaluate DATASET --out {folder}") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder / RESULT} is not JSON: {error}; evaluate again") from error
    if not isinstance(result, dict) or "text_to_image" not in result:
        raise DatasetError(f"{folder / RESULT} is no result of an evaluation; evaluate again")
    return Evaluation(result, read_answers(folder / ANSWERS))
