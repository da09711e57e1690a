"""Ends one actor of a system from outside, in order, as its parent would."""

from actors.kernel.system import ActorSystem


async def stop_actor(system: ActorSystem, name: str) -> None:
    """Stop an actor for good; `ActorStopped` if there is none of the name."""
    await system._tree.child(name).stop()
