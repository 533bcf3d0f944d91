"""The two adapters against stand-ins of the host functions they call."""

import functools
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from nag_core.hosts import model as loaded
from nag_core.hosts import which
from nag_core.hosts.ldm_unet import projected
from nag_core.hosts.patcher import forge, ldm_patched, modifier, neo
from nag_core.hosts.patcher.host import PatchedHost
from nag_core.hosts.patcher.networks import TEXT_ONLY, UNTOUCHED
from nag_core.hosts.patcher.unet import Step, Unet
from nag_core.hosts.unsupported import UnsupportedHost


@pytest.fixture(autouse=True)
def no_host(monkeypatch):
    """As in a fresh process, whatever host other tests have loaded."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not path.endswith("sandbox/host")])
    for name in [
        name for name in sys.modules if name.split(".")[0] in ("backend", "ldm_patched", "modules_forge")
    ]:
        monkeypatch.delitem(sys.modules, name)


def stub(monkeypatch, name, **attributes):
    """Puts a package path into sys.modules; the last module gets the attributes."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        module = ModuleType(path)
        module.__path__ = []
        module.__spec__ = SimpleNamespace(name=path, submodule_search_locations=[])
        monkeypatch.setitem(sys.modules, path, module)
        if end > 1:
            setattr(sys.modules[".".join(parts[: end - 1])], parts[end - 1], module)
    for key, value in attributes.items():
        setattr(sys.modules[name], key, value)


def attention_pytorch(q, k, v, heads, mask=None, **more):
    return (heads, more)


Q = torch.zeros(1, 2, 4)


def test_forge_is_recognised_by_its_attention_and_uses_the_users_choice(monkeypatch):
    stub(monkeypatch, "backend.attention", attention_function=attention_pytorch)
    host = which.detect()
    assert isinstance(host, forge.Forge)
    assert host.attention_name == "attention_pytorch"
    assert host.attention(Q, Q, Q, {"n_heads": 2, "attn_precision": torch.float32}) == (2, {})


def test_ldm_patched_passes_the_precision_on_only_where_the_host_has_it(monkeypatch):
    """reForge gives SD2.x fp32; the older hosts' function has no such parameter."""
    stub(monkeypatch, "ldm_patched.ldm.modules.attention", optimized_attention=attention_pytorch)
    host = which.detect()
    assert isinstance(host, ldm_patched.LdmPatched)
    assert host.attention_name == "attention_pytorch"
    assert host.attention(Q, Q, Q, {"n_heads": 2}) == (2, {})
    assert host.attention(Q, Q, Q, {"n_heads": 2, "attn_precision": torch.float32}) == (
        2,
        {"attn_precision": torch.float32},
    )


def test_a_host_without_either_is_named_in_one_sentence():
    with pytest.raises(UnsupportedHost, match="no UNet patcher"):
        which.detect()


def test_a_change_of_lora_changes_the_weights_identity():
    model = SimpleNamespace(lora_loader=SimpleNamespace(loaded_hash="[]"), current_weight_patches_uuid=1)
    for host in (forge.Forge(), ldm_patched.LdmPatched()):
        before = host.weights(model)
        assert host.weights(model) == before
        model.lora_loader.loaded_hash = "[lora]"
        model.current_weight_patches_uuid = 2
        assert host.weights(model) != before
        model.lora_loader.loaded_hash, model.current_weight_patches_uuid = "[]", 1


def test_a_change_of_lora_changes_the_weights_identity_on_neo():
    """It has no loader as Forge main's, and its identity was the same for all LoRAs."""
    model = torch.nn.Linear(2, 2)
    model.current_weight_patches_uuid = "one"
    before = neo.Neo().weights(model)
    assert neo.Neo().weights(model) == before
    model.current_weight_patches_uuid = "other"
    assert neo.Neo().weights(model) != before


def test_after_an_encode_in_mid_sampling_the_host_prepares_the_unet_again(monkeypatch):
    prepared = []

    def sampling_prepare(unet, x):
        prepared.append((unet, x))

    stub(monkeypatch, "backend.sampling.sampling_function", sampling_prepare=sampling_prepare)
    stub(monkeypatch, "modules_forge.forge_sampler", sampling_prepare=sampling_prepare)
    unet = SimpleNamespace(add_conditioning_modifier=None)
    model = SimpleNamespace(forge_objects=SimpleNamespace(unet=unet))
    forge.Forge().after_encoding(model, "x")
    ldm_patched.LdmPatched().after_encoding(model, "x")
    assert prepared == [(unet, "x")] * 2


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"is_sdxl": True}, "SDXL"),
        ({"is_sd1": True}, "SD1.5"),
        ({"is_sd2": True}, "SD2"),
        ({"is_sd3": True}, "SD3.5"),
        ({}, "unknown"),
    ],
)
def test_families(flags, name):
    assert loaded.family(SimpleNamespace(**flags)) == name


@pytest.mark.parametrize("name", ["Flux", "Chroma"])
def test_families_that_forge_flags_by_nothing_but_the_engines_class(name):
    assert loaded.family(type(name, (), {})()) == name


def dit(name, **blocks):
    """A network of that class name with lists of so many blocks."""
    network = type(name, (torch.nn.Module,), {})()
    for attribute, count in blocks.items():
        setattr(network, attribute, torch.nn.ModuleList(torch.nn.Identity() for _ in range(count)))
    return network


@pytest.mark.parametrize("name", ["IntegratedFluxTransformer2DModel", "IntegratedChromaTransformer2DModel"])
def test_forges_flux_and_chroma_are_reached_through_the_globals_of_flux_py(monkeypatch, name):
    stub(monkeypatch, "backend.nn.flux", attention_function=attention_pytorch)
    joint = forge.Forge().joint_model(dit(name, double_blocks=19, single_blocks=38))
    names = [name for name, _ in joint.named_blocks()]
    assert names == [("double", i) for i in range(19)] + [("single", i) for i in range(38)]
    assert (joint.attribute, joint.heads_split, joint.patch) == ("attention_function", True, 2)
    assert joint.namespace is vars(sys.modules["backend.nn.flux"])


def test_forges_sd35_is_reached_through_the_globals_of_mmditx_py(monkeypatch):
    stub(monkeypatch, "backend.nn.mmditx", attention=attention_pytorch)
    network = dit("MMDiTX", joint_blocks=24)
    network.patch_size = 2
    joint = forge.Forge().joint_model(network)
    assert joint.named_blocks()[-1] == (("joint", 23), network.joint_blocks[23])
    assert (joint.attribute, joint.heads_split, joint.patch) == ("attention", False, 2)


def defined_in(module, name, source="def {}(q, k, v, heads, mask=None): pass"):
    """A function of that name, defined in that (stub) module."""
    exec(source.format(name), vars(sys.modules[module]))
    return getattr(sys.modules[module], name)


def test_only_torchs_own_attention_may_be_replaced_by_a_kernel_with_lse(monkeypatch):
    """Everything else is the user's choice, also when it carries the same name."""
    stub(monkeypatch, "backend.attention")
    stub(monkeypatch, "backend.nn.flux", attention_function=attention_pytorch)
    joint = forge.Forge().joint_model(
        dit("IntegratedFluxTransformer2DModel", double_blocks=1, single_blocks=1)
    )
    for name, exact in (
        ("attention_pytorch", True),
        ("attention_xformers", True),
        ("attention_sub_quad", False),
    ):
        assert joint.is_sdpa(defined_in("backend.attention", name)) is exact
    own = defined_in("backend.attention", "attention_pytorch")
    assert not joint.is_sdpa(attention_pytorch), "another module's function of that name"
    assert not joint.is_sdpa(functools.wraps(own)(lambda *args: own(*args)))
    assert not joint.is_sdpa(object())
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *args: None)
    assert not joint.is_sdpa(own), "torch's function itself has been replaced"


def test_sd35s_attention_is_torchs_own_unless_somebody_replaced_it(monkeypatch):
    stub(monkeypatch, "backend.nn.mmditx")
    own = defined_in("backend.nn.mmditx", "attention")
    joint = forge.Forge().joint_model(dit("MMDiTX", joint_blocks=1))
    assert joint.is_sdpa(own)
    assert not joint.is_sdpa(functools.wraps(own)(lambda *args: own(*args)))


def test_a_forks_subclass_and_its_patch_size_are_recognised(monkeypatch):
    stub(monkeypatch, "backend.nn.mmditx", attention=attention_pytorch)
    network = type("ForkedMMDiTX", (type(dit("MMDiTX")),), {})()
    network.joint_blocks = torch.nn.ModuleList([torch.nn.Identity()])
    network.patch_size = (4, 4)
    assert forge.Forge().joint_model(network).patch == 4


def test_a_forge_whose_flux_has_changed_offers_nothing_and_nag_says_so(monkeypatch):
    stub(monkeypatch, "backend.nn.flux", attention_function=attention_pytorch)
    host = forge.Forge()
    assert host.joint_model(dit("IntegratedFluxTransformer2DModel", double_blocks=19)) is None
    monkeypatch.delattr(sys.modules["backend.nn.flux"], "attention_function")
    network = dit("IntegratedFluxTransformer2DModel", double_blocks=19, single_blocks=38)
    assert host.joint_model(network) is None
    assert host.joint_model(torch.nn.Identity()) is None
    unet = SimpleNamespace(model=SimpleNamespace(diffusion_model=network), add_conditioning_modifier=None)
    model = SimpleNamespace(forge_objects=SimpleNamespace(unet=unet))
    with pytest.raises(UnsupportedHost, match="IntegratedFluxTransformer2DModel.* no attention over text"):
        loaded.check_model(model, host)


def test_a_patcher_without_conditioning_modifiers_is_unsupported():
    model = SimpleNamespace(forge_objects=SimpleNamespace(unet=object()))
    with pytest.raises(UnsupportedHost, match="conditioning modifier"):
        loaded.unet_patcher(model)


def call(images, options, network=None, joint_model=lambda network: None):
    from nag_core.method.negative import Entry, Negative, Scheduled
    from nag_core.sandbox.model.unet import UNet
    from tests.unit.test_cross import session

    used = session()
    schedule = (Scheduled(9, Entry(torch.zeros(7, 64))),)
    used.negative = Negative((schedule,) * 2)
    model = SimpleNamespace(diffusion_model=network or UNet())
    host = PatchedHost()
    host.weights, host.joint_model = (lambda model: "w"), joint_model
    modify = modifier._modifier(host, used, Unet())
    options = modify(model, torch.zeros(images, 3, 8, 8), None, None, None, 1.0, options, 0)[6]
    return used, options


def test_a_batch_that_is_not_the_jobs_stays_plain_and_is_said():
    options = {"transformer_options": {}}
    used, found = call(3, options)
    assert found is options
    assert used.problems == ["2 negatives for 3 images"]


def test_a_joint_model_is_guided_through_its_model_call_and_the_next_network_by_its_own_mechanism():
    """As on Forge: one modifier for every network that comes along."""
    from tests import joint_models as models
    from tests.unit.test_joint import described

    network = models.build(models.FluxLike)
    used, options = call(2, {"transformer_options": {}}, network, described)
    assert set(options) == {"transformer_options", "model_function_wrapper"}
    assert used.armed == 1
    used, options = call(2, {"transformer_options": {}})
    assert "attn2" in options["transformer_options"]["patches_replace"]


def test_room_for_the_negatives_tokens_is_asked_for_before_a_joint_model_is_loaded():
    from tests import joint_models as models
    from tests.unit.test_joint import described

    asked = []
    network = models.build(models.FluxLike)
    patcher = SimpleNamespace(
        model=SimpleNamespace(diffusion_model=network),
        model_options={},
        add_conditioning_modifier=lambda one: patcher.model_options["conditioning_modifiers"].append(one),
        add_extra_preserved_memory_during_sampling=asked.append,
    )
    patcher.clone = lambda: patcher
    model = SimpleNamespace(forge_objects=SimpleNamespace(unet=patcher))
    session = SimpleNamespace(negative=SimpleNamespace(tokens=512), at_close=[])
    for joint_model in (described, lambda network: None):
        host = PatchedHost()
        host.joint_model = joint_model
        modifier.install(model, host, session)
    assert asked == [192 * 2**20 + 512 * 3072 * 120]


@pytest.mark.parametrize(
    ("patches", "regional"),
    [({}, False), ({"attn2_patch": [1]}, False), ({"attn2_patch": [1], "attn2_output_patch": [1]}, True)],
)
def test_a_regional_layout_is_believed_only_with_forge_couples_pair_of_patches(patches, regional):
    """ControlLLLite has an attn2 patch too and leaves the rows as they are."""
    _, options = call(2, {"transformer_options": {"patches": patches}, "tiled_diffusion": True})
    replace = next(iter(options["transformer_options"]["patches_replace"]["attn2"].values()))
    (seen,) = [cell.cell_contents for cell in replace.__closure__ if isinstance(cell.cell_contents, Step)]
    assert seen.batch.regional is regional
    assert seen.batch.tiled is True


@pytest.fixture
def neo_host(monkeypatch):
    """Stand-ins of the modules that Neo's adapter looks its functions up in."""
    for name in (
        "attention",
        *(f"nn.{name}" for name in ("wan", "lumina", "flux", "qwen", "krea", "anima", "ernie")),
    ):
        stub_beside(monkeypatch, f"backend.{name}", attention_function=attention_pytorch)
    return which.detect()


def stub_beside(monkeypatch, name, **attributes):
    """As `stub`, keeping what an earlier call put into the same packages."""
    kept = {key: value for key, value in sys.modules.items() if key.startswith("backend")}
    stub(monkeypatch, name, **attributes)
    for key, value in kept.items():
        monkeypatch.setitem(sys.modules, key, value)


def test_neo_is_recognised_before_forge_by_the_models_forge_lacks(neo_host):
    assert isinstance(neo_host, neo.Neo)
    assert neo_host.attention_name == "attention_pytorch"


def test_neos_families_are_known_by_their_classes_and_parts(neo_host):
    flux = dit("IntegratedFluxTransformer2DModel", double_blocks=1, single_blocks=2)
    assert neo_host.joint_model(flux) is None, "without the embedder of its positions"
    flux.pe_embedder = torch.nn.Identity()
    assert len(neo_host.joint_model(flux).blocks) == 3
    qwen = dit("QwenImageTransformer2DModel", transformer_blocks=2)
    qwen.pe_embedder = torch.nn.Identity()
    assert not neo_host.joint_model(qwen).heads_split
    image = dit("NextDiT", layers=2, context_refiner=1, noise_refiner=2)
    image.rope_embedder, image.cap_embedder = torch.nn.Identity(), torch.nn.Identity()
    image.pad_tokens_multiple = 32
    joint = neo_host.joint_model(image)
    assert (joint.pad, joint.heads_split, joint.image_first) == (32, True, False)
    assert [role for role, _ in joint.others] == [TEXT_ONLY, UNTOUCHED, UNTOUCHED]
    krea = dit("SingleStreamDiT", blocks=2)
    krea.pe_embedder = torch.nn.Identity()
    krea.patch, krea.txtfusion = 2, dit("TextFusion", refiner_blocks=1, layerwise_blocks=2)
    joint = neo_host.joint_model(krea)
    assert (len(joint.blocks), joint.heads_split, joint.image_first) == (2, True, False)
    assert [role for role, _ in joint.others] == [TEXT_ONLY, UNTOUCHED, UNTOUCHED]
    ernie = dit("ErnieImageModel", layers=2)
    ernie.pos_embed = torch.nn.Identity()
    joint = neo_host.joint_model(ernie)
    assert (len(joint.blocks), joint.heads_split, joint.image_first) == (2, False, True)
    assert neo_host.joint_model(dit("PixDiT_T2I", layers=2)) is None


def test_nunchakus_networks_are_left_alone(neo_host):
    """Theirs are subclasses of the known ones, and look the attention up in another module."""
    plain = dit("QwenImageTransformer2DModel", transformer_blocks=2)
    plain.pe_embedder = torch.nn.Identity()
    subclass = type("NunchakuQwenImageTransformer2DModel", (type(plain),), {})()
    subclass.__dict__.update(plain.__dict__)
    assert neo_host.joint_model(plain) is not None
    assert neo_host.joint_model(subclass) is None


def test_neos_arguments_are_read_where_it_keeps_them_in_a_dictionary(neo_host, monkeypatch):
    """As Neo did until the spring of 2026: videos went unnoticed there."""
    stub_beside(monkeypatch, "backend.args", dynamic_args={"wan": True})
    assert neo_host.samples_one(SimpleNamespace(is_wan=True))
    del sys.modules["backend.args"].dynamic_args["wan"]
    assert not neo_host.samples_one(SimpleNamespace(is_wan=True))


def test_a_compiled_model_is_told_from_a_formerly_compiled_one():
    model = SimpleNamespace(apply_model=len, diffusion_model=torch.nn.Sequential(torch.nn.Identity()))
    assert not neo.Neo().compiled(model)
    model._orig_apply_model, model.apply_model = len, max
    assert neo.Neo().compiled(model)
    model.apply_model = len
    assert not neo.Neo().compiled(model)
    network = model.diffusion_model
    model.diffusion_model = torch.compile(network, backend="eager")  # Neo until spring 2026, reForge
    assert neo.Neo().compiled(model)
    model.diffusion_model = network
    assert not neo.Neo().compiled(model)
    network[0].compile(backend="eager")  # forks of Neo, block by block
    assert neo.Neo().compiled(model)


def test_other_weights_in_the_same_module_are_other_weights():
    """Neo's refiner can put the second model's weights into the first one's module."""
    model = torch.nn.Linear(2, 2)
    before = neo.Neo().weights(model)
    assert neo.Neo().weights(model) == before
    model.weight = torch.nn.Parameter(torch.zeros(2, 2))
    assert neo.Neo().weights(model) != before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_neos_fast_refiner_leaves_no_key_or_value_of_the_former_weights(monkeypatch, mode):
    """`Reload "state_dict" Only` (Wan 2.2's two experts): the same module and tensors, other numbers."""
    from nag_core.method.negative import Entry, KeyValueCache

    def expert():
        layer = torch.nn.Module()
        layer.to_k, layer.to_v = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        return layer

    with mode():
        model, other = expert(), expert()
        entry, cache, like = Entry(torch.randn(3, 4)), KeyValueCache(), torch.zeros(1)
        stub(monkeypatch, "modules.sd_samplers_common", ORIGINAL_CHECKPOINT=None)

        def made():
            project = functools.partial(projected, model)
            return cache.get("layer", (entry,), like, neo.Neo().weights(model), project)

        before = made()
        assert made() is before
        model.load_state_dict(other.state_dict())
        sys.modules["modules.sd_samplers_common"].ORIGINAL_CHECKPOINT = "high-noise.safetensors"
        for found, project, old in zip(made(), (other.to_k, other.to_v), before, strict=True):
            assert torch.equal(found, project(entry.context[None]))
            assert not torch.equal(found, old)


def test_weights_written_into_the_same_tensors_are_other_weights():
    """Also where no refiner says so."""
    model = torch.nn.Linear(2, 2)
    before = neo.Neo().weights(model)
    with torch.no_grad():
        model.weight.copy_(torch.ones(2, 2))
    assert neo.Neo().weights(model) != before


@pytest.mark.parametrize(
    ("engine", "row"),
    [
        ("Flux", "Flux"),
        ("Chroma", "Flux"),
        ("Flux2", "Flux.2 Klein (community)"),
        ("QwenImage", "Flux"),
        ("ZImage", "Z-Image Turbo (community)"),
        ("Lumina2", "Flux"),
        ("Krea2", "Krea 2 (community)"),
        ("ErnieImage", "Flux"),
        ("Wan", "Wan2.1"),
        ("Anima", "Anima Turbo (community)"),
        ("Whatever", "SDXL"),
    ],
)
def test_auto_finds_the_row_of_an_engine(engine, row):
    from nag_core.settings.presets import auto

    assert auto(loaded.family(type(engine, (), {})())) == row


def test_an_unknown_joint_model_takes_the_row_of_its_mechanism():
    from nag_core.settings.presets import auto

    host = SimpleNamespace(network=lambda model: model, joint_model=lambda network: network or None)
    assert auto("unknown", loaded.mechanism("joint", host)) == "Flux"
    assert auto("unknown", loaded.mechanism("", host)) == "SDXL"


def test_neo_samples_one_video_for_all_frames(monkeypatch):
    wan, other = SimpleNamespace(is_wan=True), SimpleNamespace()
    assert not neo.Neo().samples_one(wan)
    stub(monkeypatch, "backend.args", dynamic_args=SimpleNamespace(wan=True))
    assert neo.Neo().samples_one(wan)
    assert not neo.Neo().samples_one(other)
