"""The optimizer's groups: everything decays, or what the Trainer lets decay."""

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, Trainer, TrainingArguments

from spamlit.training.optimizer import adamw


def test_matrices_are_what_the_trainer_lets_decay(tmp_path):
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=2, n_head=2))
    trainer = Trainer(model, TrainingArguments(tmp_path, weight_decay=0.3, report_to="none", use_cpu=True))
    theirs = [(group["weight_decay"], set(group["params"])) for group in trainer.create_optimizer().param_groups]
    ours = adamw(model.parameters(), weight_decay=0.3, decay="matrices", lr=1e-3).param_groups
    assert [(group["weight_decay"], set(group["params"])) for group in ours] == theirs


def test_all_decay_in_one_group():
    parameters = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2, 2))]
    (group,) = adamw(iter(parameters), weight_decay=0.3, lr=1e-3, fused=True).param_groups
    assert group["params"] == parameters
    assert (group["weight_decay"], group["fused"]) == (0.3, True)
    assert len(adamw(parameters[1:], weight_decay=0.3, decay="matrices").param_groups) == 1


def test_another_choice_is_refused():
    with pytest.raises(ValueError, match=r"optimizer\.decay=none: choose one of all, matrices"):
        adamw([], decay="none")
