"""Stand-in of the X/Y/Z plot script, nearly alike in all web UIs: what our axes touch, as it was seen to behave.

Values of a drop-down reach an option's `type` as they are, others as csv; `confirm` gets the list; cells are made on
copies of the processing object, the dearest axis outermost; an error of `process_images` leaves a black cell, any other
ends the grid.
"""

import copy
import itertools
from types import ModuleType, SimpleNamespace

from PIL import Image


class Processed:
    def __init__(self, p, images_list, seed=-1, info="", **kwargs):
        self.images, self.prompt, self.seed, self.infotexts = images_list, p.prompt, seed, [info] * len(images_list)


def make_module():
    """A script module as a web UI makes one when it loads or reloads its scripts, and its `modules.scripts` entry."""
    module = ModuleType("xyz_grid.py")

    class AxisOption:
        def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
            self.label, self.type, self.apply, self.cost = label, type, apply, cost
            self.format_value = format_value or (lambda p, opt, x: f"{opt.label}: {x}")
            self.confirm, self.choices, self.prepare = confirm, choices, prepare

    def process_images(p):
        module.made.append(p.prompt)
        for action in module.actions:
            action(p)
        p.all_prompts = [p.prompt]
        return Processed(p, [Image.new("RGB", (p.width, p.height))], p.seed, f"{p.prompt}\nSteps: 1")

    def create_infotext(p, all_prompts, all_seeds, all_subseeds):
        return f"{all_prompts[0]}\nSteps: 1"

    class Script:
        def title(self):
            return "X/Y/Z plot"

        def ui(self, is_img2img):
            self.current_axis_options = [x for x in module.axis_options if type(x) == AxisOption]  # noqa: E721

        def run(self, p, *args):
            options = [self.current_axis_options[index or 0] for index in args[0:9:3]]
            texts, chosen, csv_mode = args[1:9:3], args[2:9:3], args[-1]
            values = [_values(p, *axis, csv_mode) for axis in zip(options, texts, chosen)]
            labels = [[o.format_value(p, o, x) for x in xs] for o, xs in zip(options, values)]
            # The dearest axis is the outermost; with equal costs, z before y before x.
            order = sorted(range(3), key=lambda i: (-options[i].cost, -i))
            cells, infotext = {}, None
            for combination in itertools.product(*(range(len(values[i])) for i in order)):
                at = dict(zip(order, combination))
                pc = copy.copy(p)
                for i, option in enumerate(options):
                    option.apply(pc, values[i][at[i]], values[i])
                try:
                    result = module.process_images(pc)
                except Exception:
                    result = Processed(p, [], p.seed, "")
                if not any(at.values()):
                    infotext = module.create_infotext(pc, pc.all_prompts, [1], [1])
                cells[at[0], at[1], at[2]] = result
            return SimpleNamespace(cells=cells, labels=labels, infotext=infotext)

    def apply_seed(p, x, xs):
        p.seed = x

    Script.__module__ = "xyz_grid.py"
    nothing = AxisOption("Nothing", str, lambda p, x, xs: None, format_value=lambda p, o, x: "")
    module.axis_options = [nothing, AxisOption("Seed", int, apply_seed), AxisOption("VAE", str, apply_seed, cost=0.7)]
    module.made, module.actions = [], []
    vars(module).update(
        AxisOption=AxisOption,
        Processed=Processed,
        process_images=process_images,
        create_infotext=create_infotext,
        Script=Script,
    )
    return module, SimpleNamespace(script_class=Script, module=module)


def _values(p, option, text, chosen, csv_mode):
    if option.label == "Nothing":
        return [0]
    listed = chosen if option.choices is not None and not csv_mode else [value.strip() for value in text.split(",")]
    values = [option.type(value) for value in listed]
    if option.confirm:
        option.confirm(p, values)
    return values
