"""Stand-in of ldm_patched/modules/model_management.py: one patched clone of a model at a time."""

current_loaded_models = []


def load_models_gpu(models, memory_required=0):
    for patcher in models:
        if any(loaded is patcher for loaded in current_loaded_models):
            continue
        for clone in [loaded for loaded in current_loaded_models if loaded.model is patcher.model]:
            current_loaded_models.remove(clone)
            clone.unpatch_model()
        patcher.patch_model(patcher.load_device)
        current_loaded_models.append(patcher)


def unload_all_models():
    while current_loaded_models:
        current_loaded_models.pop().unpatch_model()
