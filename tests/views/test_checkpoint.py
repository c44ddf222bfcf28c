"""Checkpoint files: what must load to the same numbers, and what must not load."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pcl_jax.views.speech_models import load
from pcl_jax.views.speech_models.checkpoint import find_files
from pcl_jax.views.speech_models.torch_file import LEGACY_MAGIC, LEGACY_PROTOCOL, read_torch_file

REFERENCE = Path(__file__).parents[1] / "reference"


def folder(tmp_path: Path, layout: str = "wav2vec2_base", *, prefix: str = "", **changes) -> Path:
    """A checkpoint as the hub has them, made from a stored reference."""
    with np.load(REFERENCE / f"speech_models_{layout}.npz") as file:
        config = json.loads(str(file["config"])) | changes
        tensors = {
            prefix + name.removeprefix("tensors/"): file[name] for name in file if name.startswith("tensors/")
        }
    to = tmp_path / "checkpoint"
    to.mkdir(exist_ok=True)
    (to / "config.json").write_text(json.dumps(config))
    save_file(tensors, to / "model.safetensors")
    return to


def with_tensors(to: Path, change) -> Path:
    tensors = load_file(to / "model.safetensors")
    save_file(change(tensors), to / "model.safetensors")
    return to


def same(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one.parameters, other.parameters)


@pytest.fixture
def model(tmp_path):
    return load(folder(tmp_path))


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_bin_gives_what_the_safetensors_gives(model, kind, tmp_path, caplog):
    """Also: prefix `wav2vec2.`; the legacy file has the old names of the weight norm, the zip the new."""
    data = (REFERENCE / f"speech_models_{kind}.bin").read_bytes()
    assert (b"weight_g" in data) == (kind == "legacy")
    assert (b"original0" in data) == (kind == "zip")
    (tmp_path / "checkpoint" / "model.safetensors").unlink()
    (tmp_path / "checkpoint" / "pytorch_model.bin").write_bytes(data)
    with caplog.at_level("INFO"):
        same(load(tmp_path / "checkpoint"), model)
    for left_out in (
        "quantizer.codevectors",
        "project_hid.weight",
        "lm_head.bias",
        "wav2vec2.masked_spec_embed",
    ):
        assert left_out in caplog.text


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_dtypes_strides_and_shared_storages(kind):
    tensors = read_torch_file(REFERENCE / f"speech_models_{kind}.bin")
    np.testing.assert_array_equal(
        tensors["quantizer.codevectors"], np.arange(6, dtype=np.float16).reshape(2, 3)
    )
    assert tensors["project_q.weight"].dtype == jax.numpy.bfloat16
    np.testing.assert_array_equal(tensors["project_q.weight"].astype(int), np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(tensors["project_q.bias"], [4, 5, 6])
    np.testing.assert_array_equal(tensors["project_hid.weight"], np.arange(12).reshape(3, 4).T)
    assert tensors["lm_head.weight"].shape == (0, 3)
    assert tensors["lm_head.bias"].shape == ()
    assert tensors["lm_head.bias"] == 7


def test_safetensors_come_first(tmp_path):
    to = folder(tmp_path)
    (to / "pytorch_model.bin").write_bytes(b"never read")
    load(to)
    (to / "model.safetensors").rename(to / "other.safetensors")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is no readable torch checkpoint"):
        load(to)


def test_a_file_is_a_checkpoint_with_the_config_beside_it(model, tmp_path):
    same(load(tmp_path / "checkpoint" / "model.safetensors"), model)


def test_folded_weight_norm_is_the_weight(model, tmp_path):
    """g v / |v| per kernel position; a file that has the product already loads to the same."""

    def fold(tensors):
        stem = "encoder.pos_conv_embed.conv."
        g, v = (tensors.pop(f"{stem}parametrizations.weight.original{i}") for i in (0, 1))
        assert g.shape == (1, 1, v.shape[2])
        per_position = [g[0, 0, k] * v[..., k] / np.linalg.norm(v[..., k]) for k in range(v.shape[2])]
        return tensors | {f"{stem}weight": np.stack(per_position, 2)}

    folded = load(with_tensors(folder(tmp_path), fold))
    np.testing.assert_allclose(
        folded.parameters["position_conv"]["kernel"], model.parameters["position_conv"]["kernel"], rtol=1e-6
    )


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.encoder."])
def test_whisper_prefixes(prefix, tmp_path):
    bare = load(folder(tmp_path, "whisper"))
    prefixed = load(folder(tmp_path, "whisper", prefix=prefix))
    same(bare, prefixed)


def test_half_precision_files_become_float32(model, tmp_path):
    half = with_tensors(
        tmp_path / "checkpoint", lambda tensors: {k: v.astype(np.float16) for k, v in tensors.items()}
    )
    for leaf, exact in zip(jax.tree.leaves(load(half)), jax.tree.leaves(model), strict=True):
        assert leaf.dtype == np.float32
        np.testing.assert_allclose(leaf, exact, rtol=2e-3, atol=2e-3)


def test_a_truncated_safetensors(tmp_path):
    to = folder(tmp_path)
    data = (to / "model.safetensors").read_bytes()
    for kept in (len(data) - 4, 100, 0):
        (to / "model.safetensors").write_bytes(data[:kept])
        with pytest.raises(ValueError, match=r"model\.safetensors is no complete safetensors file"):
            load(to)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_truncated_bin(kind, tmp_path):
    to = folder(tmp_path)
    (to / "model.safetensors").unlink()
    data = (REFERENCE / f"speech_models_{kind}.bin").read_bytes()
    for kept in (len(data) - 1000, len(data) // 2, 10, 0):
        (to / "pytorch_model.bin").write_bytes(data[:kept])
        with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
            load(to)


class Malicious:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def zip_bin(path: Path, payload: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")


def legacy_bin(path: Path, payload: bytes) -> None:
    head = [LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True}]
    path.write_bytes(b"".join(pickle.dumps(x, protocol=2) for x in head) + payload)


@pytest.mark.parametrize("write", [zip_bin, legacy_bin])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_does_not_run(write, protocol, tmp_path):
    to = folder(tmp_path)
    (to / "model.safetensors").unlink()
    victim = tmp_path / "ran"
    payload = pickle.dumps({"weight": Malicious(victim)}, protocol=protocol)
    pickle.loads(payload)
    assert victim.exists()  # the attack works where nobody guards
    victim.unlink()
    write(to / "pytorch_model.bin", payload)
    with pytest.raises(
        ValueError, match=r"its pickle names \S*(Path|pathlib|getattr)\S*, which is no part of a tensor"
    ):
        load(to)
    assert not victim.exists()


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "torch.load", "torch._utils._rebuild_sparse_tensor", "torch.nn.Linear"],
)
def test_every_other_name_is_refused_by_name(name, tmp_path):
    module, _, attribute = name.rpartition(".")
    zip_bin(tmp_path / "evil.bin", b"c" + f"{module}\n{attribute}\n".encode() + b"(S'x'\ntR.")
    with pytest.raises(ValueError, match=f"its pickle names {name}, "):
        read_torch_file(tmp_path / "evil.bin")


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path):
    """Strides come from the file: unchecked, they would read the memory of this process."""

    class Reaching:
        def __init__(self, shape, stride):
            self.arguments = (shape, stride)

        def __reduce__(self):
            return Rebuild(), (Storage(), 0, *self.arguments, False, None)

    class Storage:
        pass

    class Rebuild:
        pass

    class Pickler(pickle._Pickler):
        """Writes the two stand-ins as torch writes its own."""

        def persistent_id(self, obj):
            return ("storage", FloatStorage(), "0", "cpu", 4) if isinstance(obj, Storage) else None

        def save(self, obj, save_persistent_id=True):
            names = {Rebuild: "torch._utils\n_rebuild_tensor_v2\n", FloatStorage: "torch\nFloatStorage\n"}
            if type(obj) in names:
                return self.write(b"c" + names[type(obj)].encode())
            return super().save(obj, save_persistent_id)

        def save_reduce(self, func, args, *rest, obj=None, **more):
            self.save(func)
            self.save(args)
            self.write(pickle.REDUCE)

    class FloatStorage:
        pass

    def write(shape, stride):
        out = io.BytesIO()
        Pickler(out, 2).dump({"weight": Reaching(shape, stride)})
        with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
            archive.writestr("x/data.pkl", out.getvalue())
            archive.writestr("x/data/0", np.arange(4, dtype=np.float32).tobytes())
        return read_torch_file(tmp_path / "x.bin")["weight"]

    np.testing.assert_array_equal(write((2, 2), (1, 2)), [[0, 2], [1, 3]])
    for shape, stride in (((5,), (1,)), ((2, 2), (1, 3)), ((2,), (10**9,))):
        with pytest.raises(ValueError, match="reaches element"):
            write(shape, stride)
    with pytest.raises(ValueError, match="not a tuple of counts"):
        write((2,), (-1,))


def test_one_error_lists_everything_that_is_wrong(tmp_path):
    def spoil(tensors):
        del tensors["encoder.layers.1.attention.q_proj.weight"]
        del tensors["feature_projection.projection.bias"]
        tensors["encoder.layers.0.final_layer_norm.weight"] = np.ones(31, np.float32)
        tensors["encoder.layers.0.attention.k_proj.weight"] = np.ones((32, 8), np.float32)
        return tensors | {
            "encoder.layers.7.attention.q_proj.weight": np.ones(1),
            "quantizer.codevectors": np.ones(1),
        }

    with pytest.raises(ValueError, match=r"model\.safetensors: ") as caught:
        load(with_tensors(folder(tmp_path), spoil))
    missing, misshapen, unexpected = str(caught.value).splitlines()[1:]
    assert missing.startswith("  missing (2): ")
    assert "encoder.layers.1.attention.q_proj.weight" in missing
    assert "feature_projection.projection.bias" in missing
    assert "encoder.layers.0.final_layer_norm.weight [31] instead of [32]" in misshapen
    assert "encoder.layers.0.attention.k_proj.weight [32, 8] instead of [32, 32]" in misshapen
    assert unexpected == "  unexpected (1): encoder.layers.7.attention.q_proj.weight"


@pytest.mark.parametrize(
    ("layout", "field", "value"),
    [
        ("wav2vec2_base", "model_type", "bert"),
        ("wav2vec2_base", "model_type", "wavlm"),
        ("wav2vec2_base", "hidden_act", "relu"),
        ("wav2vec2_base", "feat_extract_activation", "gelu_new"),
        ("wav2vec2_large", "adapter_attn_dim", 16),
        ("hubert_base", "conv_pos_batch_norm", True),
        ("whisper", "activation_function", "relu"),
    ],
)
def test_an_unsupported_architecture_is_named(layout, field, value, tmp_path):
    with pytest.raises(ValueError, match=rf"config\.json: {field} {value!r} is not supported"):
        load(folder(tmp_path, layout, **{field: value}))


def test_a_config_of_another_size_is_a_wrong_architecture(tmp_path):
    with pytest.raises(ValueError, match=r"of the wrong shape .*instead of \[64, 32\]"):
        load(folder(tmp_path, intermediate_size=64))


def test_no_network_and_nothing_cached(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        load("facebook/wav2vec2-base")
    message = str(caught.value)
    assert "'facebook/wav2vec2-base' is no local folder or file" in message
    assert "hf download facebook/wav2vec2-base config.json" in message
    assert "put config.json and model.safetensors" in message


def test_a_folder_that_lacks_files_or_is_not_there(tmp_path):
    to = folder(tmp_path)
    (to / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks config\.json"):
        load(to)
    (to / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"lacks config\.json and model\.safetensors or pytorch_model\.bin"
    ):
        load(to)
    with pytest.raises(FileNotFoundError, match="no folder or file"):
        load(tmp_path / "nowhere")


def shard(to: Path, count: int) -> dict[str, Path]:
    """Spread the tensors of a folder over several files and an index, as transformers does."""
    tensors = load_file(to / "model.safetensors")
    (to / "model.safetensors").unlink()
    names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    placed = {tensor: names[i % count] for i, tensor in enumerate(tensors)}
    for name in names:
        save_file({tensor: tensors[tensor] for tensor in tensors if placed[tensor] == name}, to / name)
    (to / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return {name: to / name for name in names}


def test_shards_give_what_one_file_gives(model, tmp_path):
    to = folder(tmp_path)
    before = find_files(to).digest()
    shards = shard(to, 3)
    same(load(to), model)
    same(load(to / "model.safetensors.index.json"), model)
    digest = find_files(to).digest()
    assert digest != before
    last = list(shards.values())[-1]
    save_file({k: v + 1 for k, v in load_file(last).items()}, last)
    assert find_files(to).digest() != digest


def test_a_shard_that_lacks_or_is_damaged_is_named(tmp_path):
    to = folder(tmp_path)
    shards = list(shard(to, 3).values())
    shards[1].write_bytes(shards[1].read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model-00002-of-00003\.safetensors is no complete"):
        load(to)
    shards[1].write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match=r"model-00002-of-00003\.safetensors is a Git LFS pointer"):
        load(to)
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model-00002-of-00003\.safetensors"):
        load(to)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        ("{}", "lists no files"),
        ('{"weight_map": {"w": "../secret"}}', r"names '\.\./secret', which is no file beside it"),
    ],
)
def test_an_index_that_is_damaged_or_points_elsewhere_is_refused(tmp_path, index, says):
    to = folder(tmp_path)
    (to / "model.safetensors").unlink()
    (to / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=says):
        load(to)


def test_shards_on_the_hub_are_fetched_one_by_one(model, tmp_path, monkeypatch):
    to = folder(tmp_path)
    shards = shard(to, 2)
    asked = []

    def hub(name, *files):
        asked.append(files)
        return next((to / file for file in files if (to / file).is_file()), None), "no network"

    monkeypatch.setattr("pcl_jax.views.speech_models.files._hub_file", hub)
    same(load("somebody/something"), model)
    assert [files for files in asked if files[0] in shards] == [(name,) for name in shards]


def test_the_preprocessor_is_read(tmp_path):
    to = folder(tmp_path)
    assert not load(to).normalise
    (to / "preprocessor_config.json").write_text('{"do_normalize": true}')
    assert load(to).normalise


def test_the_digest_is_of_the_contents(tmp_path):
    to = folder(tmp_path)
    before = find_files(to).digest()
    shutil.copytree(to, tmp_path / "copy")
    assert find_files(tmp_path / "copy").digest() == before
    with_tensors(to, lambda tensors: {k: v + (k == "encoder.layer_norm.bias") for k, v in tensors.items()})
    assert find_files(to).digest() != before
