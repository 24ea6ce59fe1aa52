"""The architectures the engine draws with, one row each."""

from __future__ import annotations

from functools import partial

from runai.engine.archs import configs
from runai.engine.archs.arch import CHANNELS_BESIDE, Arch, Beside, Config, Defaults, TextEncoding

_STAGE = "cond_stage_model."
_EMBEDDERS = "conditioner.embedders."
_TEXT1 = (TextEncoding("clip", configs.CLIP_L, f"{_STAGE}transformer.", "<|endoftext|>"),)
_TEXT2 = (TextEncoding("open_clip", configs.OPEN_CLIP_H, f"{_STAGE}model.", "!"),)
_BIGG = partial(
    TextEncoding, "open_clip", configs.OPEN_CLIP_BIGG, padding="!", layer=-2, pooled=True
)
_TEXT_XL = (
    TextEncoding("clip", configs.CLIP_L, f"{_EMBEDDERS}0.transformer.", "<|endoftext|>", layer=-2),
    _BIGG(prefix=f"{_EMBEDDERS}1.model."),
)
_TEXT_REFINER = (_BIGG(prefix=f"{_EMBEDDERS}0.model."),)

# SD 1 and 2 share everything else; SDXL and its kin too
_SD = partial(Arch, vae=configs.VAE, scheduler=configs.SCHEDULER)
_XL = partial(
    Arch,
    vae=configs.VAE_XL,
    scheduler=configs.SCHEDULER_XL,
    added="sizes",
    defaults=Defaults(25, 5.0),
)
_FROM_PICTURE = ("img2img", "inpaint", "outpaint")


def _reading(unet: Config, beside: Beside, **more: object) -> Config:
    """The same UNet that reads something beside its latents."""
    return {**unet, "in_channels": unet["in_channels"] + CHANNELS_BESIDE[beside], **more}


_ROWS = (
    _SD("sd1", "v1", 512, configs.UNET, _TEXT1),
    _SD("sd1-inpaint", "v1", 512, _reading(configs.UNET, "mask"), _TEXT1, beside="mask"),
    # instruct-pix2pix (Brooks et al. 2023)
    _SD(
        "sd1-edit",
        "v1",
        512,
        _reading(configs.UNET, "picture"),
        _TEXT1,
        beside="picture",
        tasks=("img2img",),
    ),
    _SD("sd2", "v2", 512, configs.UNET2, _TEXT2),
    _SD(
        "sd2-v",
        "v2",
        768,
        {**configs.UNET2, "sample_size": 96, "upcast_attention": True},
        _TEXT2,
        scheduler=configs.SCHEDULER_V,
    ),
    _SD("sd2-inpaint", "v2", 512, _reading(configs.UNET2, "mask"), _TEXT2, beside="mask"),
    _SD(
        "sd2-depth",
        "v2",
        512,
        _reading(configs.UNET2, "depth"),
        _TEXT2,
        beside="depth",
        tasks=("img2img",),
    ),
    Arch(
        "upscale-x4",
        "v2",
        512,
        configs.UNET_UPSCALE,
        _TEXT2,
        configs.VAE_UPSCALE,
        configs.SCHEDULER_UPSCALE,
        beside="low_res",
        added="noise_level",
        tasks=("upscale",),
        defaults=Defaults(30, 9.0, "ddim"),
        noising=configs.NOISING_UPSCALE,
    ),
    _XL("sdxl", "xl", 1024, configs.UNET_XL, _TEXT_XL),
    _XL("sdxl-inpaint", "xl", 1024, _reading(configs.UNET_XL, "mask"), _TEXT_XL, beside="mask"),
    _XL(
        "sdxl-edit",
        "xl",
        768,
        _reading(configs.UNET_XL, "picture", sample_size=96),
        _TEXT_XL,
        beside="picture",
        tasks=("img2img",),
    ),
    _XL(
        "sdxl-refiner",
        "xl",
        1024,
        configs.UNET_REFINER,
        _TEXT_REFINER,
        added="aesthetic",
        tasks=_FROM_PICTURE,
    ),
    _XL("ssd-1b", "xl", 1024, configs.UNET_SSD, _TEXT_XL),
    _XL("segmind-vega", "xl", 1024, configs.UNET_VEGA, _TEXT_XL),
)
ARCHS: dict[str, Arch] = {row.name: row for row in _ROWS}
