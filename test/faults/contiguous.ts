import { nextSegment, parseSegmentName } from '../../core/segment.ts';

/** A6: no segment between two of one timeline is missing. @param names other files are left out */
export function requireContiguous(names: readonly string[], segmentSizeMiB: number): void {
  const segments = names.filter((name) => /^[0-9A-F]{24}$/.test(name)).toSorted();
  for (const [at, name] of segments.entries()) {
    const before = segments[at - 1];
    if (before === undefined || before.slice(0, 8) !== name.slice(0, 8)) continue;
    const expected = nextSegment(parseSegmentName(before), segmentSizeMiB << 20);
    if (expected !== name)
      throw new Error(`A6: ${name} follows ${before}, and ${expected} was never answered 0`);
  }
}
