"""The toy Anima's modules: the classes and layers that a released one has, small, and tokenizers of few words."""

from __future__ import annotations

import json
import math
import string
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor, nn

from adapter_lab.families import TRANSFORMERS
from adapter_lab.training.bases.anima.modules import new_part
from adapter_lab.training.bases.anima.text import END, PAD, UNKNOWN, AnimaText, AnimaTokens

from .architecture import has_bf16
from .vocabulary import END_OF_WORD, learn_merges
from .world import all_tags

ROW = TRANSFORMERS["anima"]
LATENTS = 16  # a side of the latents of an image of 128 x 128
TEXT = 128  # width of text encoder and conditioner
QWEN3_UNKNOWN = "<|unknown|>"
CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation

TRANSFORMER: dict[str, Any] = {
    **ROW.transformer,
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "num_layers": 6,
    "text_embed_dim": TEXT,
    "adaln_lora_dim": 32,
}
CONDITIONER: dict[str, Any] = {
    "source_dim": TEXT,
    "target_dim": TEXT,
    "model_dim": TEXT,
    "num_layers": 2,
    "num_attention_heads": 4,
    "mlp_ratio": 4.0,
}
TEXT_ENCODER: dict[str, Any] = {
    "hidden_size": TEXT,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
}
VAE: dict[str, Any] = {**ROW.vae, "base_dim": 12}


def toy_tokenizer(special: tuple[str, ...], unknown: str) -> Tokenizer:
    """A byte-pair tokenizer with one token per tag, which spells other words; `special` tokens come first."""
    merges = learn_merges(all_tags())
    tokens = [*special, *CHARACTERS, *(character + END_OF_WORD for character in CHARACTERS), *map("".join, merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, end_of_word_suffix=END_OF_WORD))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder(END_OF_WORD)
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def toy_tokens() -> AnimaTokens:
    """The toy's tokenizers for text encoder and conditioner."""
    qwen3, t5 = (PAD, QWEN3_UNKNOWN), ("<pad>", END, UNKNOWN)
    return AnimaTokens(toy_tokenizer(qwen3, QWEN3_UNKNOWN), toy_tokenizer(t5, UNKNOWN))


def tokens_metadata(tokens: AnimaTokens) -> str:
    """Both tokenizers as `adapter_lab.tokenizers` has them in a checkpoint."""
    return json.dumps({"qwen3": json.loads(tokens.qwen3.to_str()), "t5": json.loads(tokens.t5.to_str())})


class ToyAnima(nn.Module):
    """Transformer, text conditioner and text encoder, with the names that the base loader gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = toy_tokens()
        rows = [tokenizer.get_vocab_size() for tokenizer in (self.tokens.qwen3, self.tokens.t5)]
        self.unet: Any = new_part("unet", TRANSFORMER)
        self.te1: Any = new_part("te1", {**TEXT_ENCODER, "vocab_size": rows[0]})
        self.conditioner: Any = new_part("conditioner", {**CONDITIONER, "target_vocab_size": rows[1]})
        self._text = AnimaText({"te1": self.te1, "conditioner": self.conditioner}, self.tokens, masked=False)
        self._spread()
        # Times lie in 0 to 1: in bf16 only a few hundred would be told apart.
        embed: Any = self.unet.time_embed
        embed.forward = partial(_in_fp32, embed)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        found: torch.dtype = self.unet.proj_out.weight.dtype
        return found

    @torch.no_grad()
    def _spread(self) -> None:
        """Start where a small transformer learns soon.

        Over 90 % of a context are rows of zeros, each of which gets attention: keys and values begin larger, that the
        caption is seen at all.
        """
        nn.init.normal_(self.te1.embed_tokens.weight, std=0.3)
        nn.init.zeros_(self.unet.proj_out.weight)
        for block in self.unet.transformer_blocks:
            for norm in (block.attn2.norm_q, block.attn2.norm_k):
                norm.weight.fill_(1.5)
            block.attn2.to_v.weight.mul_(4.0)

    def encode(self, captions: list[str]) -> Tensor:
        """Contexts (n, 512, d) of captions, whose rows behind the last token are zeros."""
        return self._text.encode(captions).hidden

    def forward(self, noisy: Tensor, times: Tensor, captions: list[str]) -> Tensor:
        """The velocity (n, 16, h, w) at times 0 to 1 (n,): equal to that with all rows of the context, but faster."""
        longest = max(len(self.tokens.target_ids(caption)) for caption in captions)
        return self.velocity(noisy, times, self.encode(captions)[:, : longest + 1])

    def velocity(self, noisy: Tensor, times: Tensor, context: Tensor) -> Tensor:
        """The transformer's answer to a context whose last row stands for all that are left out, rows of zeros."""
        mask = context.new_zeros(context.shape[:2])
        mask[:, -1] = math.log(ROW.context - context.shape[1] + 1)
        film = torch.cat([noisy, torch.zeros_like(noisy[:, :1])], dim=1)[:, :, None]
        answer: Tensor = self.unet(film, times, context, attention_mask=mask, return_dict=False)[0]
        return answer[:, :, 0]


def _in_fp32(embed: Any, hidden: Tensor, times: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.to(hidden.dtype) for part in type(embed).forward(embed, hidden.float(), times))


def fast_copy(model: ToyAnima) -> ToyAnima:
    """The same model with weights in bf16, where the CPU has instructions for it, and attention of fewer operations.

    What embeds times stays in fp32.
    """
    found = ToyAnima()
    found.load_state_dict(model.state_dict())
    for block in found.unet.transformer_blocks:
        block.attn1.processor = block.attn2.processor = Attend()
    if has_bf16():
        for name, parameter in found.named_parameters():
            if "time_embed" not in name:
                parameter.data = parameter.data.bfloat16()
    return found


class Attend:
    """What the attention of the transformer's blocks computes, without leaving bf16."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(states).unflatten(2, (attn.heads, -1))
            for layer, states in ((attn.to_q, hidden_states), (attn.to_k, read), (attn.to_v, read))
        )
        query, key = (
            F.rms_norm(states, states.shape[-1:], norm.weight, norm.eps)
            for states, norm in ((query, attn.norm_q), (key, attn.norm_k))
        )
        if image_rotary_emb is not None:
            cos, sin = (table[:, None].to(query.dtype) for table in image_rotary_emb)
            query, key = (states * cos + _turned(states) * sin for states in (query, key))
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if attention_mask is not None:
            scores = scores + attention_mask
        found: Tensor = attn.to_out[0]((torch.softmax(scores, -1) @ value).transpose(1, 2).flatten(2))
        return found


def _turned(states: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def new_vae() -> AutoencoderKLQwenImage:
    """An untrained toy VAE: 128 x 128 pixels to 16 x 16 x 16 latents.

    Convolutions keep variance, residual branches start at zero and the posterior with little noise. Kernels of several
    frames have zeros for those before, which an image never meets.
    """
    vae = AutoencoderKLQwenImage(**VAE)
    module: Any
    convolutions = (entry for entry in vae.named_modules() if isinstance(entry[1], (nn.Conv2d, nn.Conv3d)))
    for name, module in convolutions:
        kernel = module.weight.data
        if isinstance(module, QwenImageCausalConv3d):
            kernel.zero_()
            kernel = kernel[:, :, -1]
            module.forward = partial(_flat, module)
        nn.init.kaiming_normal_(kernel, nonlinearity="linear")
        module.bias.data.zero_()
        if name.endswith((".conv2", ".proj")) or "time_conv" in name:
            nn.init.zeros_(kernel)
    vae.quant_conv.bias.data[VAE["z_dim"] :] = -6.0
    return vae


def _flat(conv: Any, film: Tensor, cache: Any = None) -> Tensor:
    """A causal convolution of an image (n, c, 1, h, w), with the only part of its kernel that meets it."""
    same = conv.weight.shape[-1] // 2
    return F.conv2d(film[:, :, 0], conv.weight[:, :, -1], conv.bias, padding=same)[:, :, None]


def posterior(vae: AutoencoderKLQwenImage, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance (n, 16, h / 8, w / 8) of latents of images (n, 3, h, w)."""
    mean, logvar = vae.quant_conv(vae.encoder(pictures[:, :, None]))[:, :, 0].chunk(2, dim=1)
    return mean, logvar.clamp(-30, 20)


def decoded(vae: AutoencoderKLQwenImage, latents: Tensor) -> Tensor:
    """Images (n, 3, h, w) of latents, not cut off at -1 and 1: that would cut off gradients."""
    found: Tensor = vae.decoder(vae.post_quant_conv(latents[:, :, None]))[:, :, 0]
    return found
