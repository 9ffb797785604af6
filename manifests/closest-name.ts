/**
 * The one of `names` that `written` most likely means: the same letters in another case, or at most a few typing
 * mistakes away.
 */
export function closestName(written: string, names: readonly string[]): string | undefined {
  const folded = fold(written);
  const same = names.find((name) => fold(name) === folded);
  if (same !== undefined) return same;
  const allowed = Math.min(4, Math.floor(Math.max(3, folded.length) / 3));
  let best: string | undefined;
  let bestDistance = allowed + 1;
  for (const name of names) {
    const distance = editDistance(folded, fold(name), bestDistance);
    if (distance < bestDistance) {
      best = name;
      bestDistance = distance;
    }
  }
  return best;
}

/** `write "target"` when a name is close, else the names there are. */
export function suggestName(written: string, names: readonly string[]): string {
  const closest = closestName(written, names);
  if (closest !== undefined) return `did you mean "${closest}"?`;
  return names.length === 0 ? '' : `known here: ${names.toSorted().join(', ')}`;
}

function fold(name: string): string {
  return name.toLowerCase().replace(/[-_ ]/g, '');
}

/** Insertions, deletions, replacements and swaps of neighbours from `a` to `b`; `limit` when it is that or more. */
function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit;
  let before: number[] = [];
  let above = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= b.length; column += 1) {
      const same = a[row - 1] === b[column - 1];
      let cost = Math.min(
        (above[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (above[column - 1] ?? 0) + (same ? 0 : 1),
      );
      const swapped = row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1];
      if (swapped) cost = Math.min(cost, (before[column - 2] ?? 0) + 1);
      current.push(cost);
    }
    before = above;
    above = current;
  }
  return Math.min(limit, above[b.length] ?? limit);
}
