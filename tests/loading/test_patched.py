"""What is said of a file is made from what the weights got, whoever stood between them and us."""

from __future__ import annotations

from adapter_lab.hosts.loading.patched import Ledger, Patched
from adapter_lab.hosts.loading.plan import ModulePatch, Plan, WeightPatch
from adapter_lab.hosts.loading.report import FileReport

ASKED = {"unet": 1.0, "te1": 0.5}


class Clock:
    """The sampling step."""

    now = 0

    def __call__(self) -> int:
        return self.now


def plan_of(path: str, unet: int = 3, text: int = 1) -> Plan:
    """A plan of so many weights, one module each, whose arithmetic is not looked at."""
    patches = {}
    for part, count in (("unet", unet), ("te1", text)):
        for n in range(count):
            module: ModulePatch = type("Module", (), {"name": f"{part}_module_{n}", "of_bias": False})()  # type: ignore[assignment]
            patches[f"{part}.{n}"] = WeightPatch(f"{part}.{n}", part, [module])
    return Plan(path, patches)


def report_of(ledger: Ledger, path: str = "a") -> tuple[FileReport, Patched]:
    plan = plan_of(path)
    patched = ledger.open(path, plan)
    patched.asked = ASKED.get
    return FileReport(path, path, "lokr", 4, 4, patched=patched), patched


def patch(patched: Patched, part: str, *strengths: float) -> None:
    """What a web UI does: every weight of a part that has a patch of this file, at these strengths in turn."""
    found = [each for each in patched.plan.patches.values() if each.part == part]
    for weight, strength in zip(found, strengths if len(strengths) > 1 else strengths * len(found)):
        weight.on_patched(weight, strength)


def test_before_anything_is_patched_it_says_what_is_to_be_patched() -> None:
    report, _ = report_of(Ledger())
    assert report.summary() == "a: lokr, 4 of 4 modules" and report.complete and not report.differs


def test_what_was_patched_as_asked_needs_no_word() -> None:
    ledger = Ledger()
    report, patched = report_of(ledger)
    for part, strength in ASKED.items():
        with ledger.patching(part):
            patch(patched, part, strength)
    assert report.summary() == "a: lokr, 4 of 4 modules" and report.warning() is None and not report.differs


def test_patches_that_were_taken_out_are_missed() -> None:
    ledger = Ledger()
    report, patched = report_of(ledger)
    with ledger.patching("unet"):
        pass
    with ledger.patching("te1", "te2"):
        patch(patched, "te1", 0.5)
    assert report.summary() == "a: lokr, 1 of 4 modules" and not report.complete
    assert "The patches of 3 modules were taken out" in str(report.warning())


def test_patches_that_are_taken_out_in_the_middle_of_a_picture_were_in_it() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    report, patched = report_of(ledger)
    with ledger.patching("unet"):
        patch(patched, "unet", 1.0)
    clock.now = 6
    with ledger.patching("unet"):
        pass
    assert report.summary() == "a: lokr, 4 of 4 modules, strength 1, 0 from step 6"


def test_strengths_by_block_are_said_and_those_of_zero_not_counted() -> None:
    ledger = Ledger()
    report, patched = report_of(ledger)
    with ledger.patching("unet"):
        patch(patched, "unet", 0.0, 0.25, 1.0)
    assert report.summary() == "a: lokr, 3 of 4 modules, strength 0 to 1" and report.complete


def test_another_strength_is_said_whoever_chose_it() -> None:
    ledger = Ledger()
    report, patched = report_of(ledger)
    with ledger.patching("unet", "te1"):
        patch(patched, "unet", 0.6)
        patch(patched, "te1", 0.6)
    assert report.summary() == "a: lokr, 4 of 4 modules, strength 0.6"


def test_strengths_by_step_are_said_with_their_steps() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    report, patched = report_of(ledger)
    for clock.now, strength in ((0, 1.0), (5, 0.2), (8, 0.0)):
        with ledger.patching("unet"):
            patch(patched, "unet", strength)
    assert report.summary() == "a: lokr, 4 of 4 modules, strength 1, 0.2 from step 5, 0 from step 8"
    for clock.now in range(9, 20):
        with ledger.patching("unet"):
            patch(patched, "unet", clock.now / 20)
    assert report.summary() == "a: lokr, 4 of 4 modules, strength 0 to 1, changed 13 times up to step 19"


def test_the_next_picture_knows_what_is_in_the_weights_and_forgets_the_steps() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    report, patched = report_of(ledger)
    for clock.now, strength in ((0, 1.0), (5, 0.2)):
        with ledger.patching("unet"):
            patch(patched, "unet", strength)
    patched.begin_picture()
    assert report.summary() == "a: lokr, 4 of 4 modules, strength 0.2"  # as nothing was patched again
    clock.now = 0
    with ledger.patching("unet"):
        patch(patched, "unet", 1.0)
    assert report.summary() == "a: lokr, 4 of 4 modules"


def test_a_file_named_twice_has_the_sum_of_its_strengths() -> None:
    ledger = Ledger()
    report, patched = report_of(ledger)
    with ledger.patching("unet"):
        for strength in (0.7, 0.3):
            with ledger.patching():  # as where one weight is computed from all its patches
                patch(patched, "unet", strength)
    assert report.summary() == "a: lokr, 4 of 4 modules"


def test_what_ends_in_an_error_is_patched_again_and_counts_once() -> None:
    ledger = Ledger()
    report, patched = report_of(ledger)
    with ledger.patching("unet"):
        try:
            with ledger.patching():
                patch(patched, "unet", 1.0)
                raise MemoryError
        except MemoryError:
            patch(patched, "unet", 1.0)
    assert report.summary() == "a: lokr, 4 of 4 modules"


def test_one_layer_at_a_time() -> None:
    ledger = Ledger()
    report, patched = report_of(ledger)
    report_of(ledger, "b")
    for key in patched.weights:
        ledger.patched(key, {"b": 1.0})
    assert report.summary() == "a: lokr, 0 of 4 modules" and len(report.lost) == 4
    for key, history in patched.weights.items():
        ledger.patched(key, {"a": ASKED[history.part]})
    assert report.summary() == "a: lokr, 4 of 4 modules"


def test_a_plan_in_use_goes_on_and_another_begins_anew() -> None:
    ledger = Ledger()
    _, patched = report_of(ledger)
    assert ledger.open("a", patched.plan) is patched
    assert ledger.open("a", plan_of("a")) is not patched
