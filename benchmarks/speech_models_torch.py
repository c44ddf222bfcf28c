# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "transformers==5.23.0", "numpy"]
# ///
"""The other side of `speech_models.py`: Hugging Face's wav2vec 2.0 base in torch, random weights, 2 threads.

Reads lines of utterance lengths (samples, separated by blanks) and answers each with the seconds that
their hidden states took: one utterance at a time, unpadded, which is its fastest policy on a CPU.
"""

import sys
import time

import torch
import transformers

torch.set_num_threads(2)
model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()).eval()
for line in sys.stdin:
    utterances = [torch.randn(1, int(samples)) * 0.1 for samples in line.split()]
    start = time.perf_counter()
    with torch.inference_mode():
        for utterance in utterances:
            model(utterance, output_hidden_states=True)
    print(time.perf_counter() - start, flush=True)
