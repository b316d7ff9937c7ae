"""A model wrapped with adapters as PEFT wraps it, without PEFT."""

import torch


class LowRank(torch.nn.Module):
    """A linear layer with an adapter, as PEFT puts one in its place: x W' + x A B."""

    def __init__(self, layer, rank=2):
        super().__init__()
        self.base_layer = layer
        generator = torch.Generator().manual_seed(0)
        self.down = torch.nn.Parameter(
            torch.randn(layer.in_features, rank, generator=generator, dtype=layer.weight.dtype)
        )
        self.up = torch.nn.Parameter(
            torch.randn(rank, layer.out_features, generator=generator, dtype=layer.weight.dtype)
        )

    @property
    def weight(self):
        """The base layer's alone, as PEFT's layers give it."""
        return self.base_layer.weight

    def forward(self, x):
        """The layer's output."""
        return self.base_layer(x) + x @ self.down @ self.up


class Tuner(torch.nn.Module):
    """What PEFT puts between a wrapped model and its wrapper."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *given, **named):
        """The model's output: logits, and no hidden state."""
        return self.model(*given, **named)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.model, name)


class Wrapped(Tuner):
    """A model as PEFT wraps it: frozen but for adapters, `base_model` being no transformers
    model.
    """

    def __init__(self, model, adapted="q_proj"):
        for weight in model.parameters():
            weight.requires_grad_(False)
        for module in list(model.modules()):
            if isinstance(getattr(module, adapted, None), torch.nn.Linear):
                setattr(module, adapted, LowRank(getattr(module, adapted)))
        super().__init__(model)
        del self.model
        self.base_model = Tuner(model)

    def forward(self, *given, **named):
        """The model's output."""
        return self.base_model(*given, **named)

    def get_base_model(self):
        """The transformers model, its adapters in place."""
        return self.base_model.model

    def __getattr__(self, name):
        if name == "base_model":
            return torch.nn.Module.__getattr__(self, name)
        try:
            return torch.nn.Module.__getattr__(self, name)
        except AttributeError:
            return getattr(self.base_model, name)
