import { suffixArray } from './suffix-array.ts';

/** The last column of the sorted rotations of a block, and in which row the block itself is. */
export interface SortedBlock {
  readonly lastColumn: Uint8Array;
  readonly originRow: number;
}

/**
 * Sorts all rotations of `block`, which is not empty.
 *
 * The order of suffixes is that of rotations when no other rotation of the text is smaller than itself: one suffix can
 * then begin another only where the text repeats itself, and their rotations are the same. So the block is turned until
 * its smallest rotation comes first.
 */
export function sortRotations(block: Uint8Array): SortedBlock {
  const size = block.length;
  const turn = smallestRotation(block);
  const turned = new Uint8Array(size);
  turned.set(block.subarray(turn));
  turned.set(block.subarray(0, turn), size - turn);
  const order = suffixArray(turned, size, 256);
  const lastColumn = new Uint8Array(size);
  const origin = turn === 0 ? 0 : size - turn;
  let originRow = 0;
  for (let row = 0; row < size; row++) {
    const start = order[row] as number;
    if (start === origin) originRow = row;
    lastColumn[row] = turned[start === 0 ? size - 1 : start - 1] as number;
  }
  return { lastColumn, originRow };
}

/** Where the smallest rotation begins. */
function smallestRotation(block: Uint8Array): number {
  const size = block.length;
  let one = 0;
  let other = 1;
  let same = 0;
  while (one < size && other < size && same < size) {
    const a = block[one + same < size ? one + same : one + same - size] as number;
    const b = block[other + same < size ? other + same : other + same - size] as number;
    if (a === b) {
      same += 1;
      continue;
    }
    // the greater one is no candidate, nor is any start inside what was the same
    if (a > b) one += same + 1;
    else other += same + 1;
    if (one === other) other += 1;
    same = 0;
  }
  return Math.min(one, other);
}
