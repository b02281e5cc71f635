"""Stand-in of modules/sd_models.py."""

from ldm_patched.modules import model_management

checkpoints_list = {}


class SdModelData:
    def __init__(self):
        self.sd_model = None

    def get_sd_model(self):
        return self.sd_model


model_data = SdModelData()


def list_models():
    pass


def unload_model_weights(sd_model=None, info=None):
    model_management.unload_all_models()
    return sd_model
