"""The names scripts import from the host's processing module."""

from modules.processed import Processed, create_infotext, program_version
from modules.processing_base import StableDiffusionProcessing, opt_f
from modules.processing_img2img import StableDiffusionProcessingImg2Img, create_binary_mask
from modules.processing_run import fix_seed, get_fixed_seed, process_images, process_images_inner
from modules.processing_txt2img import DecodedSamples, StableDiffusionProcessingTxt2Img

__all__ = [
    "DecodedSamples",
    "Processed",
    "StableDiffusionProcessing",
    "StableDiffusionProcessingImg2Img",
    "StableDiffusionProcessingTxt2Img",
    "create_binary_mask",
    "create_infotext",
    "fix_seed",
    "get_fixed_seed",
    "opt_f",
    "process_images",
    "process_images_inner",
    "program_version",
]
