"""Stand-in of modules/sd_models.py: an unloaded model stays on the CPU until someone sends it back."""

from modules import shared

checkpoints_list = {}


class SdModelData:
    def __init__(self):
        self.sd_model = None
        self.loaded_sd_models = []


model_data = SdModelData()


def send_model_to_cpu(m):
    m.to("cpu")


def send_model_to_device(m):
    m.to(shared.device)


def reload_model_weights(sd_model=None, info=None, forced_reload=False):
    return model_data.sd_model


def unload_model_weights(sd_model=None, info=None):
    send_model_to_cpu(sd_model or shared.sd_model)
    return sd_model
