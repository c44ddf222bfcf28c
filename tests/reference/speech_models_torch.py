# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "transformers==5.23.0", "safetensors", "numpy"]
# ///
"""Hugging Face's torch models as witnesses of `pcl_jax.views.speech_models`. Random weights throughout.

    uv run tests/reference/speech_models_torch.py tiny           rewrites speech_models_*.npz and *.bin here
    uv run tests/reference/speech_models_torch.py full FOLDER    full-size models and their states, to FOLDER
    python tests/reference/speech_models_torch.py compare FOLDER ours on the same, in pcl_jax's environment
    uv run tests/reference/speech_models_torch.py real FOLDER CHECKPOINT WAV   real weights, for `compare`

What `compare` printed last is kept in speech_models_full.txt.

Every array of a .npz: `config` (the config.json), `tensors/NAME`, and per case `CASE/waveforms`
[n, samples], `CASE/lengths` [n], `CASE/states` [n, t, h, d]; Whisper also `CASE/mel` [n, m, t].
State 0 is the output of `feature_projection` (wav2vec 2.0, HuBERT) or the first layer's input
(Whisper); the rest are Hugging Face's `hidden_states[1:]`.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent

TINY = {
    "conv_dim": [16] * 7,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
TINY_WHISPER = {
    "num_mel_bins": 80,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "max_source_positions": 50,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 8,
    "vocab_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}


def signal(n, samples, seed):
    """Chirps in noise, quiet: with a loud signal the epsilon of the time norm would not show."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(samples) / 16_000
    rate = rng.uniform(100, 900, (n, 1))
    chirp = np.sin(2 * np.pi * (rate * time_s + 400 * time_s**2)) * (1 + np.sin(9 * time_s))
    return (0.02 * chirp + 0.003 * rng.standard_normal((n, samples))).astype(np.float32)


def ragged(lengths, seed):
    waveforms = signal(len(lengths), max(lengths), seed)
    for waveform, length in zip(waveforms, lengths, strict=True):
        waveform[length:] = 0
    return waveforms, np.array(lengths)


def randomise(model, seed):
    """Weights of unit gain instead of Hugging Face's 0.02: every tensor must show in the states."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("norm.weight"):
                p.copy_(1 + 0.2 * noise)
            elif p.ndim < 2:
                p.copy_(0.2 * noise)
            elif name.endswith("original0"):
                p.copy_(1 + 0.2 * noise.abs())
            else:
                p.copy_(noise / (p[0].numel() ** 0.5))
    return model.eval()


def build(kind, fields, seed=0):
    import transformers as hf

    if kind == "whisper":
        return randomise(hf.WhisperModel(hf.WhisperConfig(**fields)), seed)
    config, model = {
        "wav2vec2": (hf.Wav2Vec2Config, hf.Wav2Vec2Model),
        "hubert": (hf.HubertConfig, hf.HubertModel),
    }[kind]
    return randomise(model(config(**fields)), seed)


def states(model, waveforms, lengths):
    """[n, t, h, d] and, for Whisper, the log-mel spectrogram."""
    import torch

    with torch.inference_mode():
        if model.config.model_type == "whisper":
            import transformers as hf

            window = model.config.max_source_positions * 320
            frontend = hf.WhisperFeatureExtractor(
                feature_size=model.config.num_mel_bins, chunk_length=1, return_attention_mask=False
            )
            frontend.n_samples = window
            mel = frontend(
                [w[:m] for w, m in zip(waveforms, lengths, strict=True)],
                sampling_rate=16_000,
                return_tensors="pt",
            ).input_features
            out = getattr(model, "encoder", model)(mel, output_hidden_states=True)
            assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
            kept = -(-waveforms.shape[1] // 320)
            return torch.stack(out.hidden_states, 2)[:, :kept].numpy(), mel.numpy()
        projected = []
        hook = model.feature_projection.register_forward_hook(
            lambda _, __, out: projected.append((out[0] if isinstance(out, tuple) else out).clone())
        )
        mask = None
        if model.config.feat_extract_norm == "layer":
            mask = torch.from_numpy(np.arange(waveforms.shape[1]) < lengths[:, None])
        out = model(torch.from_numpy(waveforms), attention_mask=mask, output_hidden_states=True)
        hook.remove()
        return torch.stack([projected[0], *out.hidden_states[1:]], 2).numpy(), None


def arrays(model, cases):
    found = {
        "config": np.array(json.dumps(model.config.to_diff_dict() | {"model_type": model.config.model_type}))
    }
    for case, (waveforms, lengths) in cases.items():
        found[f"{case}/waveforms"], found[f"{case}/lengths"] = waveforms, lengths
        found[f"{case}/states"], mel = states(model, waveforms, lengths)
        if mel is not None:
            found[f"{case}/mel"] = mel
    return found


CASES = {
    "one": ragged([4_801], 1),
    "shortest": ragged([400], 2),
    "padded": ragged([4_801, 1_234, 3_333], 3),
}


def tiny():
    import torch

    for name, (kind, fields) in {
        "wav2vec2_base": ("wav2vec2", TINY),
        "wav2vec2_large": ("wav2vec2", TINY | LARGE),
        "hubert_base": ("hubert", TINY | {"num_conv_pos_embeddings": 15}),
        "hubert_large": ("hubert", TINY | LARGE | {"feat_proj_layer_norm": False}),
        "whisper": ("whisper", TINY_WHISPER),
        "whisper_128": ("whisper", TINY_WHISPER | {"num_mel_bins": 128, "encoder_layers": 1}),
    }.items():
        model = build(kind, fields)
        body = model.encoder if kind == "whisper" else model
        tensors = {f"tensors/{k}": v.numpy() for k, v in body.state_dict().items()}
        np.savez_compressed(HERE / f"speech_models_{name}.npz", **arrays(model, CASES), **tensors)

        if name == "wav2vec2_base":
            with_head(model, legacy=False)
            with_head(model, legacy=True)
    assert all(path.stat().st_size < 600_000 for path in HERE.glob("speech_models_*"))
    torch.manual_seed(0)


def with_head(model, *, legacy):
    """`pytorch_model.bin` of a pre-training model: prefix, quantizer, other dtypes, strides, shared storage.

    The legacy file has the weight norm's old names, as the files of that time; the zip the new.
    """
    import torch

    full = {f"wav2vec2.{k}": v for k, v in model.state_dict().items()}
    stem = "wav2vec2.encoder.pos_conv_embed.conv."
    if legacy:
        for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
            full[stem + old] = full.pop(f"{stem}parametrizations.weight.{new}")
    shared = torch.arange(12.0)
    full |= {
        "quantizer.codevectors": torch.arange(6).reshape(2, 3).half(),
        "project_q.weight": torch.arange(6).reshape(2, 3).bfloat16(),
        "project_q.bias": shared[4:7],
        "project_hid.weight": shared.reshape(3, 4).T,
        "lm_head.weight": torch.nn.Parameter(torch.zeros(0, 3)),
        "lm_head.bias": torch.tensor(7),
    }
    name = "legacy" if legacy else "zip"
    torch.save(full, HERE / f"speech_models_{name}.bin", _use_new_zipfile_serialization=not legacy)


def full(folder):
    large = LARGE | {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    for name, kind, fields, lengths in (
        ("wav2vec2-base", "wav2vec2", {}, [40_001, 52_345]),
        ("wav2vec2-base-15s", "wav2vec2", {}, [240_000]),
        ("hubert-base", "hubert", {}, [40_001]),
        ("wav2vec2-large", "wav2vec2", large, [20_001, 32_345]),
    ):
        model = build(kind, fields)
        (folder / name).mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder / name)
        np.savez(folder / name / "reference.npz", **arrays(model, {"full": ragged(lengths, 4)}))


def real(folder, checkpoint, wav):
    """A Whisper encoder without prefix, as the one to develop with; `wav` is PCM16 mono at 16 kHz."""
    import torch
    import transformers as hf
    from safetensors.torch import load_file
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = hf.AutoConfig.from_pretrained(checkpoint)
    model = WhisperEncoder(config).eval()
    model.load_state_dict(
        {k: v.float() for k, v in load_file(Path(checkpoint) / "model.safetensors").items()}
    )
    samples = np.frombuffer(Path(wav).read_bytes()[44:], "<i2").astype(np.float32) / 2**15
    to = folder / Path(checkpoint).name
    to.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(to)
    torch.set_num_threads(2)
    np.savez(to / "reference.npz", **arrays(model, {"real": (samples[None], np.array([len(samples)]))}))


def compare(folder):
    from pcl_jax.views.speech_models import hidden_states, load

    for reference in sorted(folder.glob("*/reference.npz")):
        model = load(reference.parent)
        found = np.load(reference)
        for case in sorted({key.split("/")[0] for key in found if "/" in key}):
            lengths = found[f"{case}/lengths"]
            theirs = found[f"{case}/states"]
            ours = np.asarray(hidden_states(model, found[f"{case}/waveforms"], lengths=lengths))
            own = np.arange(theirs.shape[1]) < model.architecture.frames(lengths)[:, None]
            gap = np.abs(ours - theirs)[own].max(axis=(0, 2))
            loudest = np.abs(theirs[own]).max()
            print(
                f"{reference.parent.name}, {theirs.shape} [n, t, h, d], largest |state| {loudest:.1f}: "
                f"largest difference {gap.max():.1e} (state {gap.argmax()}); per state "
                + " ".join(f"{g:.0e}" for g in gap)
            )


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    commands = {"tiny": tiny, "full": full, "real": real, "compare": compare}
    commands[command](*(Path(a) for a in rest[:1]), *rest[1:])
