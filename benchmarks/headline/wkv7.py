"""RWKV-7's recurrence over a matrix state; backward, only the initial state is trained (state tuning)."""

import torch
import torch.nn.functional as F
from torch import nn

ROWS = {
    "03_wkv7": {"b": 1, "h": 12, "t": 256, "d": 64},
    "04_wkv7_state_tuning": {"b": 1, "h": 12, "t": 128, "d": 64},
}
PASSES = {"04_wkv7_state_tuning": ("backward",)}
GOALS = {"03_wkv7": {"best": 1.3, "eager": 25}, "04_wkv7_state_tuning backward": {"best": 1.3, "eager": 25}}
SMALL = {"b": 2, "h": 2, "t": 5, "d": 8}
STEP = "cell"
BACKWARD_FLOP = 2.0  # the state's gradient alone


class Model(nn.Module):
    def cell(self, S, r, decay, k, v, a, b):
        sa = torch.einsum("bhvk,bhk->bhv", S, a)
        S = S * decay[..., None, :] + sa[..., None] * b[..., None, :] + v[..., None] * k[..., None, :]
        return S, torch.einsum("bhvk,bhk->bhv", S, r)

    def forward(self, r, w, k, v, a, b, S):  # [B, T, H, D] and the state [B, H, V, K]
        kept = r.dtype
        state = torch.promote_types(kept, torch.float32)
        S, r, k, v, a, b = (x.to(state) for x in (S, r * r.shape[-1] ** -0.5, k, v, a, b))
        decay = torch.exp(-torch.exp(w.to(state)))
        out = []
        for t in range(r.shape[1]):
            S, o = self.cell(S, r[:, t], decay[:, t], k[:, t], v[:, t], a[:, t], b[:, t])
            out.append(o)
        return torch.stack(out, 1).to(kept), S


def get_inputs(b=1, h=12, t=256, d=64):
    r, w, k, v = (torch.randn(b, t, h, d) for _ in range(4))
    key = F.normalize(torch.randn(b, t, h, d), dim=-1)
    state = torch.randn(b, h, d, d) * 0.1
    return [r, 0.5 * w - 3, k * d**-0.5, v, -key, key * torch.sigmoid(torch.randn(b, t, h, d)), state.requires_grad_()]


def flop(b, h, t, d):
    return 8 * b * h * t * d * d
