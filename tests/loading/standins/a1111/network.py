"""Stand-in of extensions-builtin/Lora/network.py."""


class NetworkOnDisk:
    def __init__(self, name, filename):
        self.name = name
        self.filename = filename
        self.shorthash = ""

    def read_hash(self):
        pass


class Network:
    def __init__(self, name, network_on_disk):
        self.name = name
        self.network_on_disk = network_on_disk
        self.te_multiplier = 1.0
        self.unet_multiplier = 1.0
        self.dyn_dim = None
        self.modules = {}
        self.bundle_embeddings = {}
        self.mtime = None


class NetworkModule:
    """LoRA and full differences, the only algorithms this stand-in knows."""

    def __init__(self, net, weights, sd_module):
        self.network = net
        self.weights = weights
        self.sd_module = sd_module

    def calc_updown(self, target):
        if "diff" in self.weights:
            updown = self.weights["diff"]
        else:
            up, down = (self.weights[f"lora_{which}.weight"].flatten(1) for which in ("up", "down"))
            updown = float(self.weights["alpha"]) / len(down) * (up @ down)
        return self.network.unet_multiplier * updown.to(target).reshape(target.shape), None

    def forward(self, x, y):
        updown, _ = self.calc_updown(self.sd_module.weight)
        return y + x @ updown.T
