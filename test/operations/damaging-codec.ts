import { compress } from '../../streams/codec.ts';
import type { Compress } from '../../streams/proof.ts';

export interface Damage {
  /** Bytes of the output before the one that has a bit turned. */
  readonly at: number;
  /** How many of the streams, the first ones; by default all. */
  readonly streams?: number;
}

/** A codec that errs as memory or a library may: one bit of what it makes is turned. */
export function damagingCodec({ at, streams = Number.POSITIVE_INFINITY }: Damage): Compress {
  let begun = 0;
  return async function* damaged(codec, source, options) {
    const errs = ++begun <= streams;
    let before = 0;
    for await (const piece of compress(codec, source, options)) {
      const inside = at - before;
      before += piece.length;
      if (!errs || inside < 0 || inside >= piece.length) {
        yield piece;
        continue;
      }
      const turned = Uint8Array.from(piece);
      turned[inside] = (turned[inside] ?? 0) ^ 1;
      yield turned;
    }
  };
}
