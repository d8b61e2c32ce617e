"""Flocking as users of Mesa write it: agents of its ContinuousSpace, a torus, in an order that is drawn in each step.

    python flocking.py --birds FILE --side S --steps N --rounds R

FILE holds four little-endian doubles per bird: x, y, vx, vy. Each round begins with a new model, which is not timed; the
first round does not count. Prints one line of JSON, as everworld-peers does.

Not comparable: as in its own example a bird sees what those before it in the step have done, where ours all turn by what
was there when the step began; and its space looks at all birds for each, so a step takes the square of their number.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
from mesa import Model
from mesa.experimental.continuous_space import ContinuousSpace, ContinuousSpaceAgent

# The large variant, scaled.
RADIUS = 15.0
SEPARATION = 1.0
COHERE = 0.03
SEPARATE = 0.015
ALIGN = 0.05


class Bird(ContinuousSpaceAgent):
    """Turns to where its neighbours are, off those that are too near, and to where they go."""

    def __init__(self, model, position, velocity):
        super().__init__(model.space, model)
        self.position = position
        self.velocity = velocity

    def step(self):
        others, distances = self.get_neighbors_in_radius(RADIUS)
        if others:
            way = self.space.calculate_difference_vector(self.position, agents=others)
            near = way[distances < SEPARATION].sum(axis=0)
            going = np.array([other.velocity for other in others]).sum(axis=0)
            by = COHERE * way.sum(axis=0) - SEPARATE * near + ALIGN * going
            self.velocity = self.velocity + by / len(others)
        length = np.linalg.norm(self.velocity)
        if length > 0.0:
            self.velocity = self.velocity / length
        self.position = self.position + self.velocity


class Flock(Model):
    """Birds on a torus."""

    def __init__(self, side, positions, velocities):
        super().__init__(seed=1)
        count = len(positions)
        self.space = ContinuousSpace([[0, side], [0, side]], torus=True, random=self.random, n_agents=count)
        Bird.create_agents(self, count, position=positions, velocity=velocities)

    def step(self):
        self.agents.shuffle_do("step")


def parse():
    """The arguments, and the birds of the file; ends the process with 1 if they are no good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.error = lambda message: sys.exit(f"error: {message}")
    parser.add_argument("--birds", required=True, metavar="FILE")
    parser.add_argument("--side", required=True, type=float)
    parser.add_argument("--steps", required=True, type=int)
    parser.add_argument("--rounds", required=True, type=int)
    args = parser.parse_args()
    if not 2 * RADIUS <= args.side <= 1e9:
        parser.error(f"--side must be a number from {2 * RADIUS} to 1e9, not {args.side}")
    if args.steps < 1 or args.rounds < 1:
        parser.error("--steps and --rounds must be 1 at least")
    try:
        content = Path(args.birds).read_bytes()
    except OSError as error:
        parser.error(f'could not read "{args.birds}": {error}')
    if not content or len(content) % 32 != 0:
        parser.error(f'could not use "{args.birds}": {len(content)} bytes are not birds of 32 bytes each')
    birds = np.frombuffer(content, dtype="<f8").reshape(-1, 4)
    positions = birds[:, :2]
    if not (np.isfinite(birds).all() and (positions >= 0.0).all() and (positions < args.side).all()):
        parser.error(f'could not use "{args.birds}": not all birds are on a torus of side {args.side}')
    return args, birds


def main():
    args, birds = parse()
    times = []
    # One round that does not count, as for the others.
    for counted in range(args.rounds + 1):
        flock = Flock(args.side, birds[:, :2].copy(), birds[:, 2:].copy())
        begun = perf_counter()
        for _ in range(args.steps):
            flock.step()
        millis = (perf_counter() - begun) * 1e3
        if counted:
            times.append(millis / args.steps)
    velocities = np.array([bird.velocity for bird in flock.agents])
    result = {
        "name": "Mesa",
        "version": version("mesa"),
        "threads": 1,
        "ms_per_step": times,
        "order_parameter": float(np.linalg.norm(velocities.sum(axis=0)) / len(velocities)),
        "checksum": flock.space.agent_positions.sum(axis=0).tolist(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
