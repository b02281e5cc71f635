"""What a base predicts and on which noise schedule, read from the file and said in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adapter_lab.config import BaseConfig
from adapter_lab.errors import ConfigError, FileFormatError
from adapter_lab.families import UNETS, Probe
from adapter_lab.training.bases.single_file import Opened
from adapter_lab.training.objective.objective import EPSILON, FLOW, V

# What files and configurations call each kind of prediction; how we state it in `modelspec.prediction_type`.
SPELLED = {
    EPSILON: ("epsilon", "eps"),
    V: ("v", "v_prediction", "v-prediction", "vpred", "v_pred"),
    FLOW: ("flow", "flow_prediction", "flow_matching", "rectified_flow", "rectified-flow", "rf"),
}
WORDS = {word: prediction for prediction, words in SPELLED.items() for word in words}
STATED = {prediction: words[0] for prediction, words in SPELLED.items()} | {EPSILON: "epsilon"}
# Parts of a file's name that suggest a kind of prediction, which nothing but its setting then decides.
NAME_HINTS = {"vpred": V, "v-pred": V, "v_pred": V, "rectified": FLOW, "-rf": FLOW, "_rf": FLOW}
FLOW_SCHEDULER = "FlowMatch"
CALLED = {EPSILON: "epsilon", V: "v-prediction", FLOW: "rectified flow"}


@dataclass(frozen=True)
class Detection:
    """Prediction type, whether the schedule ends without signal, and sentences that say how that is known."""

    prediction: str
    zero_terminal_snr: bool
    findings: list[str]


def detect(opened: Opened, config: BaseConfig) -> Detection:
    """Prediction type and schedule of a base: the settings first, then what the file says, then the family's usual.

    Raises ConfigError for zero terminal SNR with epsilon, of which the last timestep could not be undone.
    """
    prediction, how = _prediction(opened)
    if config.prediction != "auto":
        found, prediction, how = prediction, config.prediction, "as base.prediction says"
        if found != prediction:
            how += f" (the file suggests {found})"
    zero, why = _zero_terminal_snr(opened)
    if config.zero_terminal_snr != "auto":
        zero, why = config.zero_terminal_snr == "yes", "as base.zero_terminal_snr says"
    if zero and prediction == FLOW:
        if config.zero_terminal_snr == "yes":
            raise ConfigError(
                "Rectified flow has no noise schedule that could be rescaled: set base.zero_terminal_snr to auto."
            )
        zero, why = False, ""
    if zero and prediction == EPSILON:
        if config.zero_terminal_snr == "yes" or config.prediction == EPSILON:
            raise ConfigError(
                "Zero terminal SNR cannot be trained with epsilon prediction, because the last timestep is pure noise; "
                "set base.prediction to v_prediction or base.zero_terminal_snr to no."
            )
        zero, why = False, "because the model predicts epsilon, although the file says otherwise"
    findings = [f"Prediction type: {prediction}, {how}."]
    if zero or why:
        findings.append(f"Zero terminal SNR: {'yes' if zero else 'no'}, {why or 'the usual'}.")
    name = opened.path.name.lower()
    suggested = next((kind for hint, kind in NAME_HINTS.items() if hint in name), EPSILON)
    if prediction == EPSILON != suggested and config.prediction == "auto":
        findings.append(
            f"The name {opened.path.name} suggests {CALLED[suggested]}, but nothing in the file says so; "
            f"if images come out wrong, set base.prediction to {suggested}."
        )
    return Detection(prediction, zero, findings)


def _prediction(opened: Opened) -> tuple[str, str]:
    """What the UNet predicts, and how that is known."""
    if "v_pred" in opened.shapes:
        return V, "from the file's `v_pred` key"
    stated = opened.metadata.get("modelspec.prediction_type", "").strip().lower()
    if stated in WORDS:
        return WORDS[stated], "from the file's modelspec.prediction_type"
    if opened.metadata.get("ss_v_parameterization", "").lower() == "true":
        return V, "from the file's ss_v_parameterization"
    if opened.scheduler is not None and str(opened.scheduler.get("_class_name", "")).startswith("EDM"):
        raise FileFormatError(
            f"{opened.path} is an EDM model, whose noise scale Adapter Lab does not train; "
            "choose an epsilon or v-prediction checkpoint."
        )
    if opened.scheduler is not None and str(opened.scheduler.get("_class_name", "")).startswith(FLOW_SCHEDULER):
        return FLOW, "from scheduler_config.json"
    if opened.scheduler is not None and (stated := str(opened.scheduler.get("prediction_type", "epsilon"))):
        if stated not in WORDS:
            raise FileFormatError(
                f"{opened.path} predicts {stated!r}, which Adapter Lab does not train; choose an epsilon or "
                "v-prediction model, or set base.prediction if its scheduler_config.json is wrong."
            )
        return WORDS[stated], "from scheduler_config.json"
    if probe := UNETS[opened.family].probe:
        return _probed(opened, probe)
    return EPSILON, "the usual of this family, since the file states nothing else"


def _probed(opened: Opened, probe: Probe) -> tuple[str, str]:
    """By a probe, since the file does not say it."""
    step = opened.metadata.get("global_step", "")
    if step in probe.steps:
        return probe.steps[step], f"from the released file's step count {step}"
    remedy = "assumed from the weights; set base.prediction if that is wrong"
    if probe.tensor in opened.shapes:
        spread = opened.components["unet"].weights.read(probe.tensor).float().std(unbiased=False).item()
        return (V if spread > probe.spread else EPSILON), remedy
    return EPSILON, "assumed, since the file states nothing; set base.prediction if that is wrong"


def _zero_terminal_snr(opened: Opened) -> tuple[bool, str]:
    if "ztsnr" in opened.shapes:
        return True, "from the file's `ztsnr` key"
    for key in ("modelspec.zero_terminal_snr", "ss_zero_terminal_snr"):
        if opened.metadata.get(key, "").lower() in ("true", "yes", "1"):
            return True, f"from the file's {key}"
    scheduler: dict[str, Any] = opened.scheduler or {}
    if scheduler.get("rescale_betas_zero_snr"):
        return True, "from scheduler_config.json"
    return False, ""
