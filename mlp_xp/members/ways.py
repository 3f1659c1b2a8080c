"""How the updates of members are made on a device, as `fast.ways` says it of one network."""

from mlp_xp.fast.cuda.kernels import MOST_MEMBERS
from mlp_xp.members.captured import CapturedMemberStep
from mlp_xp.members.compiled import CompiledMemberStep
from mlp_xp.members.step import Members, MemberStep


def member_step(way: str, of: Members, *, schedules_more: bool) -> MemberStep:
    """What makes the updates of members, by one of `fast.WAYS`."""
    name = "plain" if way == "plain" else of.objective.network.backend.name
    if name == "cpu":
        return CompiledMemberStep(of)
    if name.startswith("cuda:") and of.objective.n <= MOST_MEMBERS:
        return CapturedMemberStep(of, captures=way == "fast", schedules_more=schedules_more)
    return MemberStep(of)
