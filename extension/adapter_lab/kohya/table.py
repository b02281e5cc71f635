"""Every option of sd-scripts and every field of the kohya_ss GUI, and what becomes of it here: one row each.

A name is looked up as it is, then by the rows that end in `*`. An option of a dataset file has the row of the training
file's option of that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CARRIED = "carried over"
OTHERWISE = "carried over with another meaning, which is said"
NOT_CARRIED = "not carried over, which is said"
HARMLESS = "changes nothing that is learned"
REFUSED = "refused"


@dataclass(frozen=True)
class Row:
    """What becomes of an option: one of the fates above, and words about it; `silent`: values that ask for nothing."""

    fate: str
    words: str = ""
    silent: tuple[Any, ...] = ()


UNKNOWN = Row(NOT_CARRIED, "this import does not know it")


def _carried(names: str) -> dict[str, Row]:
    return dict.fromkeys(names.split(), Row(CARRIED))


def _harmless(names: str) -> dict[str, Row]:
    return dict.fromkeys(names.split(), Row(HARMLESS))


def _left(words: str, names: str, *silent: Any) -> dict[str, Row]:
    return dict.fromkeys(names.split(), Row(NOT_CARRIED, words, silent))


def _otherwise(words: str, names: str) -> dict[str, Row]:
    return dict.fromkeys(names.split(), Row(OTHERWISE, words))


_SAVES = "images are made at each save"
_GO_ON = "go on with `adapter-lab resume` in a run folder of ours"
_DEVICE = "one run trains on one device here, without this way of saving memory"
_METADATA = "metadata describe the run by themselves"
_STATES = "use save.keep_states, a number of states"

# Options of train_network.py, sdxl_train_network.py and of the dataset file.
OPTIONS: dict[str, Row] = {
    **_carried(
        "pretrained_model_name_or_path vae v2 v_parameterization zero_terminal_snr output_name "
        "output_dir seed train_batch_size batch_size max_train_epochs max_train_steps gradient_accumulation_steps "
        "mixed_precision save_precision fp8_base cache_latents cache_latents_to_disk "
        "cache_text_encoder_outputs cache_text_encoder_outputs_to_disk save_every_n_epochs save_every_n_steps "
        "save_last_n_epochs save_last_n_steps save_n_epoch_ratio sample_prompts "
        "network_module network_dim network_alpha network_dropout network_args network_weights base_weights "
        "base_weights_multiplier scale_weight_norms network_train_unet_only network_train_text_encoder_only "
        "learning_rate unet_lr text_encoder_lr optimizer_type optimizer_args use_8bit_adam use_lion_optimizer "
        "max_grad_norm lr_scheduler lr_scheduler_type lr_scheduler_num_cycles lr_scheduler_power "
        "lr_scheduler_timescale lr_scheduler_min_lr_ratio lr_warmup_steps "
        "loss_type huber_schedule huber_c huber_scale min_snr_gamma debiased_estimation_loss v_pred_like_loss "
        "scale_v_pred_loss_like_noise_pred noise_offset multires_noise_discount ip_noise_gamma prior_loss_weight "
        "min_timestep max_timestep "
        "train_data_dir reg_data_dir dataset_config image_dir num_repeats is_reg class_tokens resolution "
        "enable_bucket min_bucket_reso max_bucket_reso bucket_reso_steps bucket_no_upscale caption_extension "
        "caption_extention shuffle_caption keep_tokens keep_tokens_separator caption_prefix caption_suffix "
        "caption_dropout_rate caption_tag_dropout_rate enable_wildcard color_aug flip_aug random_crop alpha_mask "
        "validation_split"
    ),
    **_otherwise("counted as the text encoder's layers here; sd-scripts does not use it for SDXL", "clip_skip"),
    **_otherwise(
        "captions of over 75 tokens are encoded as web UIs do, in chunks of 77 states and as many as they take; "
        "sd-scripts fills up all captions to this length and drops the ends of chunks",
        "max_token_length",
    ),
    **_otherwise(
        "the first level is of full size there and already a coarser one here, so that as many levels do more",
        "multires_noise_iterations",
    ),
    **_otherwise("it is num_repeats of a dataset file, and nothing without one", "dataset_repeats"),
    **_harmless(
        "gradient_checkpointing xformers sdpa mem_eff_attn cross_attention no_half_vae sdxl_no_half_vae lowram "
        "highvram max_data_loader_n_workers persistent_data_loader_workers vae_batch_size text_encoder_batch_size "
        "vae_chunk_size logging_dir log_with log_prefix log_tracker_name log_tracker_config log_config console_log_* "
        "tokenizer_cache_dir disable_mmap_load_safetensors torch_compile dynamo_backend cache_info skip_cache_check "
        "skip_image_resolution config_file output_config dataset_class debug_dataset save_state "
        "save_state_on_train_end ddp_timeout noise_offset_type verbose"
    ),
    **_left("adapter weights stay fp32 here, which loses nothing", "full_fp16 full_bf16"),
    **_left("use precision.base_weights", "fp8_base_unet"),
    **_left("it belongs to full fine-tuning", "fused_backward_pass fp16_master_weights_and_gradients"),
    **_left(
        "there is no such option here",
        "adaptive_noise_scale noise_offset_random_strength ip_noise_gamma_random_strength lr_decay_steps",
        0,
    ),
    **_left("captions are taken as plain text here", "weighted_captions"),
    **_left("set dataset.mask to file or alpha", "masked_loss"),
    **_left("only the built-in schedules can be chosen here", "lr_scheduler_args"),
    **_left("dims are those of the configuration", "dim_from_weights"),
    **_left("the tokenizer belongs to the base model", "tokenizer"),
    **_left(_GO_ON, "resume resume_from_huggingface initial_epoch initial_step skip_until_initial_step", 0),
    **_left(_SAVES, "sample_every_n_steps sample_every_n_epochs", 0),
    **_left("images before the first step are made by default", "sample_at_first"),
    **_left("the sampler is ours", "sample_sampler"),
    **_left(_STATES, "save_last_n_steps_state save_last_n_epochs_state", 0),
    **_left("adapter files are .safetensors here", "save_model_as", "safetensors"),
    **_left(_METADATA, "training_comment no_metadata metadata_*"),
    **_left(_DEVICE, "multi_gpu deepspeed zero_stage zero3_* offload_* cpu_offload_checkpointing ddp_*", 2),
    **_left("inpainting models are not trained here", "train_inpainting"),
    **_left("images are encoded whole", "vae_enable_tiling"),
    **_left("nothing is uploaded", "huggingface_* wandb_* async_upload save_state_to_huggingface"),
    **_left("the validation loss is measured at each save", "validate_every_n_steps validate_every_n_epochs", 0),
    **_left("all images held out are measured", "max_validation_steps", 0),
    **_left("the images held out are chosen by their content", "validation_seed"),
    **_left("there is no token warm-up here", "token_warmup_min", 1),
    **_left("there is no token warm-up here", "token_warmup_step", 0),
    **_left("caption dropout is drawn per image here", "caption_dropout_every_n_epochs", 0),
    **_left("there is no second separator here", "secondary_separator"),
    **_left("tags are separated by commas here", "caption_separator", ",", ", "),
    **_left("there is no face crop here", "face_crop_aug_range"),
    **_left("how images are resized cannot be chosen here", "resize_interpolation"),
    **_left("the adapter's strength while training is 1", "network_multiplier", 1),
    **_left("captions are read from the files beside the images", "metadata_file in_json"),
    **_left("such folders are not read; put masks beside the images and set dataset.mask", "conditioning_data_dir"),
    **_left("such attributes of a subset are not known here", "custom_attributes"),
}

# network_args of networks.lora, loha and lokr and of lycoris.kohya.
NETWORK_ARGS: dict[str, Row] = {
    **_carried(
        "algo preset conv_dim conv_alpha dropout rank_dropout module_dropout factor constraint rescaled use_tucker "
        "use_cp use_conv_cp disable_conv_cp use_scalar dora_wd wd_on_output decompose_both full_matrix "
        "unbalanced_factorization rs_lora train_norm train_on_input loraplus_lr_ratio loraplus_unet_lr_ratio"
    ),
    **_harmless("verbose"),
    **_left("the cheapest exact forward is chosen here by itself", "bypass_mode"),
    **_left("there is no such option here", "rank_dropout_scale"),
    **_left("one ratio of LoRA+ holds for all parts here", "loraplus_text_encoder_lr_ratio"),
    **_left("it belongs to DyLoRA, which is not trained here", "block_size unit"),
    **_left("set network.dora instead", "weight_decompose"),
    **_left("it belongs to other families of models", "train_t5xxl train_llm_adapter"),
    **_left("it belongs to networks.oft, which is not trained here", "enable_all_linear enable_conv"),
    **_left(
        "write settings of some modules as network.rules",
        "block_dims block_alphas conv_block_dims conv_block_alphas down_lr_weight mid_lr_weight up_lr_weight "
        "block_lr_zero_threshold include_patterns exclude_patterns network_reg_lrs network_reg_dims",
    ),
}

# Fields of the GUI's LoRA page that are no option of sd-scripts under their name.
GUI: dict[str, Row] = {
    **_carried(
        "LoRA_type max_resolution optimizer epoch lr_warmup sdxl additional_parameters lora_network_weights "
        "sdxl_cache_text_encoder_outputs LyCORIS_preset constrain noise_offset_type t5xxl_lr"
    ),
    **_harmless(
        "model_list model_type lowvram training_preset save_as_bool headless print_only gpu_ids main_process_port "
        "num_cpu_threads_per_process num_processes num_machines dynamo_mode dynamo_use_dynamic dynamo_use_fullgraph "
        "extra_accelerate_launch_args use_wandb wandb_run_name no_token_padding stop_text_encoder_training "
        "stop_text_encoder_training_pct"
    ),
    **dict.fromkeys(
        ("flux1_checkbox", "sd3_checkbox", "hunyuan_image_checkbox", "anima_checkbox", "lumina_checkbox"),
        Row(REFUSED, "another family of models"),
    ),
    # Settings of other families, which the GUI writes into every file.
    **_harmless(
        "flux1_* sd3_* hunyuan_* anima_* lumina_* t5xxl* clip_g* clip_l* ggpo_* logit_* ae apply_t5_attn_mask "
        "blocks_to_swap cpu_offload_checkpointing discrete_flow_shift double_blocks_to_swap enable_all_linear "
        "guidance_scale img_attn_dim img_mlp_dim img_mod_dim in_dims mem_eff_save mode_scale model_prediction_type "
        "pos_emb_random_crop_rate save_clip save_t5xxl show_timesteps show_timesteps_resolution "
        "single_blocks_to_swap single_dim single_mod_dim split_mode split_qkv timestep_sampling train_blocks "
        "train_double_block_indices train_lora_ggpo train_single_block_indices train_t5xxl txt_attn_dim txt_mlp_dim "
        "txt_mod_dim weighting_scheme"
    ),
}


TABLES = {
    "Options of sd-scripts and of its dataset files": OPTIONS,
    "`network_args`": NETWORK_ARGS,
    "Fields of the kohya_ss GUI that are no option of sd-scripts": GUI,
}


def row_of(name: str, *tables: Mapping[str, Row]) -> Row:
    """The row of `name` in the first of `tables` that has one; UNKNOWN where none has."""
    for table in tables:
        if name in table:
            return table[name]
    patterns = [(key[:-1], row) for table in tables for key, row in table.items() if key.endswith("*")]
    return next((row for start, row in patterns if name.startswith(start)), UNKNOWN)
