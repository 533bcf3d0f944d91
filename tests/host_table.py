"""What of a WebUI the extension relies on: functions with what we pass, attributes, words.

Compared with a host's source alone, without importing it: `pytest --webui-dir CHECKOUT
tests/contract/test_checkout_table.py`. tests/unit/test_host_table.py holds the table to our own code: what is
imported of a host's modules there and does not stand here is an error. Attributes of the host's objects
(the job, the model, the patcher) stand here by hand.
"""

from __future__ import annotations

import ast
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

FORGE, NEO, LDM, A1111, SDNEXT = "Forge main", "Forge Neo", "reForge or Classic", "A1111", "SD.Next"
PATCHED = (FORGE, NEO, LDM)
WEBUIS = (*PATCHED, A1111)
ALL = (*WEBUIS, SDNEXT)


class Function(NamedTuple):
    """A function that we call: `args` by position (an instance not counted), `names` by name.

    files: where it may be, by host and age. The name is dotted for a method. order: the host's names of
    those by position, "one|other" where hosts differ; by their number alone, another order goes unnoticed.
    """

    files: tuple[str, ...]
    name: str
    args: int
    names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ALL
    order: tuple[str, ...] = ()


class Name(NamedTuple):
    """Something with this name in a module, or dotted in a class (a method, an attribute that it sets)."""

    files: tuple[str, ...]
    name: str
    hosts: tuple[str, ...] = ALL


class Word(NamedTuple):
    """A key of a dictionary that the host fills, or an attribute that it sets on an object: a string or an
    attribute's name in its source.
    """

    files: tuple[str, ...]
    name: str
    hosts: tuple[str, ...] = ALL


Entry = Function | Name | Word

_PARSER, _PROCESSING = ("modules/prompt_parser.py",), ("modules/processing.py", "modules/processing_class.py")
_CALLBACKS, _SCRIPTS = ("modules/script_callbacks.py",), ("modules/scripts.py", "modules/scripts_manager.py")
_UI, _SHARED = ("modules/ui_components.py",), ("modules/shared.py",)
_OPTIONS = ("modules/options.py", "modules/options_handler.py", "modules/shared.py")
_PROCESSED = ("modules/processing.py", "modules/processed.py")
_XYZ = (
    "extensions-builtin/xyz/lib_xyz/classes.py", "scripts/xyz/xyz_grid_classes.py",
    "extensions-builtin/xyz/scripts/xyz_grid.py", "scripts/xyz_grid_classes.py", "scripts/xyz_grid.py",
)  # fmt: skip
_HIJACK = ("modules/sd_hijack.py",)
_STYLES = ("modules/styles.py",)
_DENOISER = ("modules/sd_samplers_cfg_denoiser.py",)
_JOB, _TXT2IMG = "StableDiffusionProcessing", "StableDiffusionProcessingTxt2Img"
_FORGE_PATCHER = ("backend/patcher/unet.py", "modules_forge/unet_patcher.py")
_BASE_PATCHER = ("backend/patcher/base.py", "ldm_patched/modules/model_patcher.py")
_CALLS = ("backend/sampling/sampling_function.py", "ldm_patched/modules/samplers.py")
_CONDITIONS = ("backend/sampling/condition.py", "ldm_patched/modules/model_base.py")
_LDM_ATTENTION = ("ldm_patched/ldm/modules/attention.py",)
_ENGINE = ("backend/diffusion_engine/base.py", "modules_forge/forge_loader.py", "modules/sd_models.py")
_TILES = ("extensions-builtin/sd_forge_multidiffusion/lib_multidiffusion/tiled_diffusion.py",)
_PREPARE = ("backend/sampling/sampling_function.py", "modules_forge/forge_sampler.py")
_UNET = ("backend/nn/unet.py", *_LDM_ATTENTION)
_UNET_BLOCKS = ("backend/nn/unet.py", "ldm_patched/ldm/modules/diffusionmodules/openaimodel.py")
_BLOCKS = ("input_blocks", "middle_block", "output_blocks")
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out", "heads")
_QKV = ("q", "k", "v", "heads")
_AXIS = ("label", "type|tipe", "apply", "format_value|fmt", "confirm")

# nag_core/hosts/encoding.py, negative.py, alike.py, texts.py
ENCODING: tuple[Entry, ...] = (
    Function(
        _PARSER, "get_learned_conditioning_prompt_schedules", 2, ("hires_steps",), WEBUIS,
        ("prompts", "base_steps"),
    ),
    Function(_PARSER, "get_learned_conditioning", 3, (), WEBUIS, ("model", "prompts", "steps")),
    Function(_PARSER, "SdConditioning.__init__", 1, ("is_negative_prompt", "width", "height"), WEBUIS),
    Name(_PARSER, "ScheduledPromptConditioning", WEBUIS),
    Word(_PARSER, "end_at_step", WEBUIS),
    Word(_PARSER, "cond", WEBUIS),
    Name(_PARSER, "ComposableScheduledPromptConditioning.schedules", WEBUIS),
    Name(_PARSER, "MulticondLearnedConditioning.batch", WEBUIS),
    Function(
        _PROCESSING, f"{_JOB}.get_conds_with_caching", 5, ("hires_steps",), WEBUIS,
        ("function", "required_prompts", "steps", "caches", "extra_network_data"),
    ),
    Function(_PROCESSING, f"{_JOB}.get_conds", 0, (), WEBUIS),
    *(
        Name(_PROCESSING, f"{_JOB}.{name}", WEBUIS)
        for name in (
            "width", "height", "steps", "sampler_name", "negative_prompts", "extra_network_data", "sampler",
            "firstpass_steps",
        )
    ),
    Name(_PROCESSING, f"{_JOB}.distilled_cfg_scale", (FORGE, NEO)),
    Name(_PROCESSING, f"{_TXT2IMG}.hr_distilled_cfg", (FORGE, NEO)),
    *(
        Name(_PROCESSING, f"{_TXT2IMG}.{name}", WEBUIS)
        for name in (
            "hr_upscale_to_x", "hr_upscale_to_y", "hr_second_pass_steps", "hr_sampler_name", "is_hr_pass",
            "hr_negative_prompts", "hr_extra_network_data", "get_conds",
        )
    ),
    Function(("modules/sd_samplers.py",), "find_sampler_config", 1, (), WEBUIS),
    Function(("modules/sd_samplers_common.py",), "SamplerData.total_steps", 1, (), WEBUIS),
    Name(_CALLBACKS, "callback_map", WEBUIS),
    Word(_CALLBACKS, "callbacks_cfg_denoiser", WEBUIS),
)  # fmt: skip

# nag_core/hosts/base.py, modifier.py, forge.py, neo.py, ldm_patched.py, a1111.py
SAMPLING: tuple[Entry, ...] = (
    Name(_DENOISER, "CFGDenoiser.step", WEBUIS),
    Name(_DENOISER, "CFGDenoiser.total_steps", WEBUIS),
    Name(_DENOISER, "CFGDenoiser.p", WEBUIS),
    Name(("modules/sd_samplers_common.py",), "Sampler.model_wrap_cfg", WEBUIS),
    Name(_CALLBACKS, "CFGDenoiserParams.denoiser", WEBUIS),
    Name(_CALLBACKS, "CFGDenoiserParams.x", WEBUIS),
    Function(_FORGE_PATCHER, "UnetPatcher.add_conditioning_modifier", 1, (), PATCHED),
    Function(_FORGE_PATCHER, "UnetPatcher.clone", 0, (), PATCHED),
    Name(_BASE_PATCHER, "ModelPatcher.model_options", PATCHED),
    Word(_FORGE_PATCHER, "conditioning_modifiers", PATCHED),
    *(Word(_CALLS, name, PATCHED) for name in ("transformer_options", "cond_or_uncond")),
    Word(_CONDITIONS, "c_crossattn", PATCHED),
    Word(_CALLS, "model_function_wrapper", PATCHED),
    Word(_UNET, "attn2_patch", PATCHED),
    Word(_ENGINE, "forge_objects", PATCHED),
    Name(_BASE_PATCHER, "*.lora_loader", (FORGE,)),
    Word(_TILES, "tiled_diffusion", (FORGE, NEO)),
    Word(("extensions-builtin/sd_forge_compile/scripts/compile.py",), "_orig_apply_model", (NEO,)),
    Name(("modules/sd_samplers_common.py",), "Sampler.sampler_extra_args", (A1111,)),
    *(Word(_UNET, name, PATCHED) for name in ("patches_replace", "attn2", "n_heads")),
    # hosts/ldm_unet.py lists the layers. Their projections make the negative's keys and values, and carry the
    # hooks on A1111 and where another extension replaced the forward. A1111 has its network from elsewhere,
    # and names the parts.
    *(Name(_UNET_BLOCKS, f"*.{name}", PATCHED) for name in _BLOCKS),
    Name(_UNET, "*.transformer_blocks", PATCHED),
    *(Name(_UNET, f"CrossAttention.{name}", PATCHED) for name in _PROJECTIONS),
    *(Word(("modules/lowvram.py",), name, (A1111,)) for name in _BLOCKS),
    Word(_HIJACK, "transformer_blocks", (A1111,)),
    *(Word(("modules/sd_hijack_optimizations.py",), name, (A1111,)) for name in _PROJECTIONS),
    Name(("backend/attention.py",), "attention_function", (FORGE, NEO)),
    Function(("backend/attention.py",), "attention_pytorch", 4, (), (FORGE, NEO), _QKV),
    Function(_PREPARE, "sampling_prepare", 1, ("x",), PATCHED),
    # Neo's patcher has the identity of the weights' patches; of what is copied into them, a tensor's stands
    # for it (nag_core/hosts/patcher/neo.py).
    Name(_BASE_PATCHER, "*.current_weight_patches_uuid", (NEO,)),
    Name(("backend/patcher/lora.py",), "LoraLoader.loaded_hash", (FORGE,)),
    Name(_LDM_ATTENTION, "optimized_attention", (LDM,)),
    Function(_LDM_ATTENTION, "attention_pytorch", 4, (), (LDM,), _QKV),
    Function(
        ("modules/hypernetworks/hypernetwork.py",), "apply_hypernetworks", 3, (), (A1111,),
        ("hypernetworks", "context", "layer"),
    ),
    Name(_SHARED, "loaded_hypernetworks", (A1111,)),
    # hosts/a1111/host.py: what of a LoRA the weights depend on.
    Name(("extensions-builtin/Lora/networks.py",), "loaded_networks", (A1111,)),
    *(
        Name(("extensions-builtin/Lora/network.py",), f"Network.{name}", (A1111,))
        for name in ("name", "te_multiplier", "unet_multiplier", "dyn_dim")
    ),
    Name(("modules/sd_hijack_optimizations.py",), "scaled_dot_product_attention_forward", (A1111,)),
    Name(("modules/sd_hijack_unet.py",), "apply_model", (A1111,)),
    # Counts of a text's tokens, for VSF.
    Function(_ENGINE[:1], "*.get_prompt_lengths_on_ui", 1, (), (FORGE, NEO)),
    Function(
        ("backend/text_processing/classic_engine.py",), "ClassicTextProcessingEngine.process_texts", 1, (),
        (FORGE, NEO),
    ),
    Name(_HIJACK, "model_hijack", (LDM, A1111)),
    Function(_HIJACK, "StableDiffusionModelHijack.get_prompt_lengths", 1, ("cond_stage_model",), (LDM,)),
    Function(_HIJACK, "StableDiffusionModelHijack.get_prompt_lengths", 1, (), (A1111,)),
)  # fmt: skip

# The joint and cross families of hosts/patcher/forge.py and neo.py: module, network, what it must have.
_NETWORKS = {
    "flux": ("IntegratedFluxTransformer2DModel", ("double_blocks", "single_blocks"), (FORGE, NEO)),
    "chroma": ("IntegratedChromaTransformer2DModel", ("double_blocks", "single_blocks"), (FORGE, NEO)),
    "mmditx": ("MMDiTX", ("joint_blocks",), (FORGE,)),
    "qwen": ("QwenImageTransformer2DModel", ("transformer_blocks", "pe_embedder"), (NEO,)),
    "lumina": (
        "NextDiT",
        (
            "layers", "rope_embedder", "context_refiner", "noise_refiner", "cap_embedder",
            "pad_tokens_multiple", "cap_pad_token",
        ),
        (NEO,),
    ),
    "krea": ("SingleStreamDiT", ("blocks", "txtfusion", "patch", "pe_embedder"), (NEO,)),
    "ernie": ("ErnieImageModel", ("layers", "pos_embed"), (NEO,)),
    "wan": ("WanModel", ("blocks", "text_embedding"), (NEO,)),
    "anima": ("Anima", ("blocks",), (NEO,)),
}  # fmt: skip
# Where the attention is looked up; Chroma's blocks are Flux's.
_LOOKED_UP = {name: "attention_function" for name in _NETWORKS if name != "chroma"} | {"mmditx": "attention"}
FAMILIES: tuple[Entry, ...] = (
    *(
        Name((f"backend/nn/{module}.py",), name, hosts)
        for module, (network, parts, hosts) in _NETWORKS.items()
        for name in (network, *(f"*.{part}" for part in parts))
    ),
    *(Name((f"backend/nn/{module}.py",), name, _NETWORKS[module][2]) for module, name in _LOOKED_UP.items()),
    *(Name(("backend/nn/wan.py",), f"*.{name}", (NEO,)) for name in ("cross_attn", "norm_k", "k", "v")),
    *(
        Name(("backend/nn/anima.py",), f"*.{name}", (NEO,))
        for name in ("cross_attn", "k_norm", "k_proj", "v_proj", "n_heads")
    ),
    Name(("backend/nn/chroma.py",), "*.pe_embedder", (NEO,)),
    Name(("backend/nn/flux.py",), "*.pe_embedder", (NEO,)),
    # Reference images: who looks for them, and the count of their tokens.
    Name(("backend/args.py",), "dynamic_args.ref_latents", (NEO,)),
    *(Name((f"backend/nn/{module}.py",), "dynamic_args", (NEO,)) for module in ("flux", "qwen", "anima")),
    Name(("backend/nn/flux.py",), "*.default_ref_method", (NEO,)),
    Name(("backend/nn/krea.py",), "*.prenorm", (NEO,)),
    *(Name(("backend/nn/anima.py",), f"*.{name}", (NEO,)) for name in ("patch_spatial", "patch_temporal")),
    Name(("backend/args.py",), "dynamic_args.wan", (NEO,)),
    Name(("modules/sd_samplers_common.py",), "ORIGINAL_CHECKPOINT", (NEO,)),
)

# nag_core/webui, scripts/nag_guidance.py
PAGE: tuple[Entry, ...] = (
    Name(("modules/paths.py", "modules/paths_internal.py"), "data_path"),
    *(
        Function(_CALLBACKS, name, 1)
        for name in ("on_before_ui", "on_infotext_pasted", "on_ui_settings", "on_app_started")
    ),
    Function(_CALLBACKS, "on_cfg_denoiser", 1, (), WEBUIS),
    *(
        Name(_SCRIPTS, f"Script.{name}")
        for name in (
            "title", "show", "ui", "setup", "process", "process_batch", "postprocess_batch", "postprocess",
        )
    ),
    Name(_SCRIPTS, "Script.process_before_every_sampling", WEBUIS),
    Name(_SCRIPTS, "Script.postprocess_image"),
    Name(_SCRIPTS, "AlwaysVisible"),
    Name(_SCRIPTS, "scripts_data"),
    Name(_SCRIPTS, "ScriptRunner.alwayson_scripts"),
    Name(_SCRIPTS, "Script.args_from"),
    Name(_SCRIPTS, "Script.controls", WEBUIS),
    Function(_SCRIPTS, "Script.elem_id", 1),
    Function(_SCRIPTS, "Script.on_after_component", 1, ("elem_id",), WEBUIS),
    Name(_UI, "InputAccordion"),
    Name(_UI, "ToolButton"),
    Name(_SHARED, "opts"),
    Name(_SHARED, "cmd_opts"),
    Name(_SHARED, "OptionInfo"),
    Name(_SHARED, "prompt_styles"),
    Function(_OPTIONS, "OptionInfo.__init__", 3, ("section",), ALL, ("default", "label", "component")),
    Function(_OPTIONS, "OptionInfo.info", 1),
    Function(_OPTIONS, "OptionInfo.needs_reload_ui", 0),
    Function(_OPTIONS, "*.add_option", 2, (), ALL, ("key", "info")),
    Function(_STYLES, "StyleDatabase.apply_negative_styles_to_prompt", 2, (), ALL, ("prompt", "styles")),
    Function(
        _STYLES, "StyleDatabase.apply_styles_to_prompts", 4, (), (SDNEXT,),
        ("prompts", "negatives", "styles", "seeds"),
    ),
    Function(_STYLES, "extract_style_text_from_prompt", 2, (), WEBUIS, ("style_text", "prompt")),
    Name(_STYLES, "StyleDatabase.styles", WEBUIS),
    Function(("modules/extra_networks.py",), "parse_prompts", 1),
    Function(("modules/processing_scripts/comments.py",), "strip_comments", 1, (), WEBUIS),
    Function(
        ("modules/images.py", "modules/image/save.py"), "save_image", 6, ("info", "p", "suffix"), ALL,
        ("image", "path", "basename", "seed", "prompt", "extension"),
    ),
    Function(_PROCESSING, "create_binary_mask", 1, (), WEBUIS),
    Name(("modules/ui.py",), "update_negative_prompt_token_counter", WEBUIS),
    Function(("modules/ui.py",), "update_token_counter", 3, (), WEBUIS, ("text", "steps", "styles")),
    Function(("modules/images.py",), "read", 1, (), (FORGE, NEO, A1111)),
    *(
        Name(_PROCESSING, f"{_JOB}.{name}")
        for name in (
            "extra_generation_params", "script_args", "scripts", "batch_size", "styles", "all_prompts",
            "all_negative_prompts", "all_seeds", "iteration", "prompts", "seeds", "outpath_samples",
        )
    ),
    Word(_PROCESSING, "batch_index"),
    # Heat maps stand beside the results there, elsewhere behind them.
    Name(_PROCESSING, f"{_JOB}.extra_result_images", PATCHED),
    Name(_SCRIPTS, "ScriptRunner.selectable_scripts"),
    Function(_PROCESSING, f"{_JOB}.comment", 1, (), WEBUIS),
    Function(_PROCESSING, f"{_JOB}.save_samples", 0, (), WEBUIS),
    *(Name(_PROCESSED, f"Processed.{name}") for name in ("images", "infotexts", "index_of_first_image")),
    # What Auto will use is shown for the model that is loaded (hosts/model.py).
    Name(("modules/sd_models.py",), "model_data"),
    Word(("modules/sd_models.py",), "forge_loading_parameters", (FORGE, NEO)),
    Word(("modules/sd_models.py",), "forge_hash", (FORGE, NEO)),
    Word(("modules/sd_models.py",), "sd_checkpoint_info"),
    # An end by sigma in a pasted picture (sigmas.py): where it is gone, that is named as not taken.
    Function(("modules/sd_samplers.py",), "create_sampler", 2, (), WEBUIS, ("name", "model")),
    Function(
        ("modules/sd_samplers_kdiffusion.py",), "KDiffusionSampler.get_sigmas", 2, (), WEBUIS, ("p", "steps")
    ),
    Function(_XYZ, "AxisOption.__init__", 5, ("choices", "prepare"), WEBUIS, _AXIS),
    Function(_XYZ, "AxisOption.__init__", 5, ("choices",), (SDNEXT,), _AXIS),
)  # fmt: skip

# nag_core/hosts/diffusers/sdnext.py
_DIFFUSERS = ("modules/processing_diffusers.py",)
PIPELINES: tuple[Entry, ...] = (
    Name(_DIFFUSERS, "set_pipeline_args", (SDNEXT,)),
    Name(_DIFFUSERS, "process_post", (SDNEXT,)),
    Function(
        ("modules/processing_args.py",),
        "set_pipeline_args",
        0,
        ("p", "model", "prompts", "negative_prompts"),
        (SDNEXT,),
    ),
)

# By what a change costs.
PARTS: dict[str, tuple[Entry, ...]] = {
    "text of the negative": ENCODING,
    "sampling": SAMPLING,
    "one family of models": FAMILIES,
    "page, report and plot": PAGE,
    "pipelines": PIPELINES,
}
TABLE: tuple[Entry, ...] = tuple(entry for part in PARTS.values() for entry in part)

# What the adapters look for (`probe` in nag_core/hosts), in the order in which they are asked.
_HOSTS = (
    (SDNEXT, ("modules/processing_diffusers.py",)),
    (NEO, ("backend/attention.py", "backend/nn/wan.py", "backend/nn/lumina.py")),
    (FORGE, ("backend/attention.py",)),
    (LDM, ("ldm_patched/ldm/modules/attention.py",)),
    (
        A1111,
        (
            "modules/sd_samplers_cfg_denoiser.py",
            "modules/sd_hijack_optimizations.py",
            "modules/sd_hijack_unet.py",
        ),
    ),
)


def host_of(tree: Path) -> str:
    """Which of the hosts a checkout is, by its files, as the extension itself finds out; empty for none."""
    for host, files in _HOSTS:
        if all((tree / file).is_file() for file in files):
            return host
    return ""


def entries(host: str) -> list[Entry]:
    """What the extension relies on there."""
    return [entry for entry in TABLE if host in entry.hosts]


def missing(tree: Path, entry: Entry) -> str:
    """What of an entry a checkout does not have any more, as one sentence; empty where all is there."""
    files = [tree / name for name in entry.files if (tree / name).is_file()]
    if not files:
        return f"there is no {' or '.join(entry.files)} any more ({entry.name})"
    said = [_read(file, file.relative_to(tree).as_posix(), entry) for file in files]
    return "" if "" in said else said[0]


def _read(file: Path, where: str, entry: Entry) -> str:
    try:
        return _missing(file, where, entry)
    except (SyntaxError, ValueError) as error:  # ValueError: not UTF-8, or a NUL
        return f"{where} cannot be read by this Python ({str(error)[:80]}); {entry.name} is in it"


def _missing(file: Path, where: str, entry: Entry) -> str:
    module = _parsed(file.read_text(encoding="utf-8-sig"))
    if isinstance(entry, Word):
        return "" if entry.name in _words(module) else f"{where} has no key {entry.name!r} any more"
    found = _find(module, entry.name)
    if found is None:
        return f"{where} has no {entry.name} any more"
    if isinstance(entry, Function):
        if not isinstance(found, ast.FunctionDef):
            return f"{where}: {entry.name} is no function of its own, and what it takes cannot be read"
        refused = _refused(found.args, entry, method="." in entry.name)
        return f"{where}: {entry.name}() {refused}" if refused else ""
    return ""


@cache
def _parsed(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the host's own, of odd escapes in its strings
        return ast.parse(text)


def _words(module: ast.Module) -> set[str]:
    """Every string of a module, and every name that stands for one: attributes and keyword arguments."""
    attributes = {node.attr for node in ast.walk(module) if isinstance(node, ast.Attribute)}
    constants = {node.value for node in ast.walk(module) if isinstance(node, ast.Constant)}
    keywords = {node.arg for node in ast.walk(module) if isinstance(node, ast.keyword)}
    return {one for one in constants if isinstance(one, str)} | keywords | attributes


def _find(module: ast.Module, name: str) -> ast.AST | None:
    """The definition of a dotted name: of a class, or of a dictionary that the module makes by `dict`; of
    `*.name` an attribute that any class of the module sets or has.
    """
    owner, _, last = name.rpartition(".")
    if not owner:
        return _named(module.body, last)
    classes = [node for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    for one in classes:
        if owner in ("*", one.name):
            found = _named(one.body, last) or _set_by(one, last)
            if found is not None:
                return found
    return _key_of(_named(module.body, owner), last)


def _key_of(assigned: ast.AST | None, name: str) -> ast.AST | None:
    """The keyword by which `owner = dict(name=...)` has such a key."""
    call = getattr(assigned, "value", None)
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != "dict":
        return None
    return next((keyword for keyword in call.keywords if keyword.arg == name), None)


def _named(body: list[ast.stmt], name: str) -> ast.AST | None:
    """What `body` binds the name to: the last of several, behind any `if` or `try`."""
    found = None
    for node in body:
        bound: set[str] = set()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound = {node.name}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            leaves = [leaf for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
            bound = {leaf.id for leaf in leaves if isinstance(leaf.ctx, ast.Store)}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound = {alias.asname or alias.name for alias in node.names}
        if name in bound:
            found = node
        for part in ("body", "orelse", "finalbody") if isinstance(node, (ast.If, ast.Try, ast.With)) else ():
            found = _named(getattr(node, part, []), name) or found
    return found


def _set_by(one: ast.ClassDef, name: str) -> ast.AST | None:
    """Where the class sets `self.name`."""
    for node in ast.walk(one):
        if isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Store):
            return node
    return None


def _refused(given: ast.arguments, entry: Function, method: bool) -> str:
    """Why a function does not take what the entry passes; empty where it does."""
    positional = [one.arg for one in (*given.posonlyargs, *given.args)][int(method) :]
    required = positional[: len(positional) - len(given.defaults)]
    names = {*positional[entry.args :], *(one.arg for one in given.kwonlyargs)}
    if entry.args > len(positional) and given.vararg is None:
        return f"takes {len(positional)} arguments by position, not {entry.args}"
    for place, (there, known) in enumerate(zip(positional, entry.order, strict=False), 1):
        if there not in known.split("|"):
            return f"takes {there} as argument {place}, where {known} was"
    unknown = [name for name in entry.names if name not in names]
    if unknown and given.kwarg is None:
        return f"does not take {', '.join(unknown)} any more"
    lacking = [name for name in required[entry.args :] if name not in entry.names]
    lacking += [
        one.arg
        for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
        if default is None and one.arg not in entry.names
    ]
    return f"wants {', '.join(lacking)} as well" if lacking else ""
