import { isAlias, isMap, isNode, isScalar, isSeq, type Node, type Pair, type YAMLMap } from 'yaml';
import { formatPath, show, type FieldPath } from './problem.ts';
import type { PlacedFinding } from './yaml-source.ts';

/** Line and column of an offset, both from 1. */
export type Lines = (offset: number) => { readonly line: number; readonly col: number };

/** It may stand in a map more than once: each adds the fields of an anchor. */
const MERGE_KEY = '<<';

interface Options {
  readonly merge: boolean;
  /** A Secret: what its values are is not told. */
  readonly masked: boolean;
}

/**
 * Finds keys that are given more than once in one map. Without `merge` each is refused, with both places and what they
 * hold: YAML readers keep one of them, and which is not what the author thinks. With `merge` maps are united in place,
 * deeply; values that differ are refused even then.
 */
export function mergeDuplicateKeys(
  root: Node,
  lines: Lines,
  options: Options,
): { readonly findings: PlacedFinding[]; readonly refused: boolean } {
  const findings: PlacedFinding[] = [];
  visit(root, [], (map, path) => {
    for (const [key, pairs] of duplicates(map)) {
      const here = [...path, key];
      const finding = options.merge
        ? unite(map, pairs, here, lines, options)
        : refuseDuplicate(pairs, here, lines, options);
      findings.push(...finding);
    }
  });
  return { findings, refused: findings.some((finding) => finding.severity === 'error') };
}

function visit(node: unknown, path: FieldPath, onMap: (map: YAMLMap, path: FieldPath) => void): void {
  if (isMap(node)) {
    // The map itself first: united maps may hold further duplicates.
    onMap(node, path);
    for (const pair of node.items) visit(pair.value, [...path, keyOf(pair)], onMap);
  } else if (isSeq(node)) {
    node.items.forEach((item, index) => visit(item, [...path, index], onMap));
  }
}

function keyOf(pair: Pair): string {
  // Others were refused before: a manifest has no maps or lists as keys.
  if (!isScalar(pair.key)) return '';
  // The parser marks YAML's merge key with a symbol.
  return typeof pair.key.value === 'symbol' ? MERGE_KEY : String(pair.key.value);
}

function duplicates(map: YAMLMap): [string, Pair[]][] {
  const groups = new Map<string, Pair[]>();
  for (const pair of map.items) {
    const key = keyOf(pair);
    if (key !== MERGE_KEY) groups.set(key, [...(groups.get(key) ?? []), pair]);
  }
  return [...groups].filter(([, pairs]) => pairs.length > 1);
}

function lineOf(node: unknown, lines: Lines): number {
  return lines(isNode(node) ? (node.range?.[0] ?? 0) : 0).line;
}

function place(pair: Pair | undefined, path: FieldPath, lines: Lines) {
  const position = lines(isNode(pair?.key) ? (pair.key.range?.[0] ?? 0) : 0);
  return { line: position.line, column: position.col, path };
}

function refuseDuplicate(
  pairs: readonly Pair[],
  path: FieldPath,
  lines: Lines,
  options: Options,
): PlacedFinding[] {
  const [first, ...others] = pairs;
  const held = pairs.map(
    (pair) => `line ${lineOf(pair.key, lines)} holds ${describe(pair.value, path, options)}`,
  );
  const key = String(path.at(-1));
  const conflicts = others.flatMap((other) => findConflicts(first?.value, other.value, path, lines, options));
  const message = `"${key}" is given ${pairs.length === 2 ? 'twice' : `${pairs.length} times`}: ${held.join('; ')}`;
  return [{ ...place(first, path, lines), message, fix: adviseOn(key, path, conflicts), severity: 'error' }];
}

function adviseOn(key: string, path: FieldPath, conflicts: readonly Conflict[]): string {
  if (path.length === 1 && ['apiVersion', 'kind', 'metadata'].includes(key)) {
    return 'if these are two documents, write a line --- between them';
  }
  const [conflict] = conflicts;
  return conflict
    ? `keep one of them: they differ in ${conflict.told}`
    : `put everything below one "${key}:", or apply with --merge-duplicate-keys, which does that`;
}

/** Unites all `pairs` of one key into the first, unless they contradict each other. */
function unite(
  map: YAMLMap,
  pairs: readonly Pair[],
  path: FieldPath,
  lines: Lines,
  options: Options,
): PlacedFinding[] {
  const [first, ...others] = pairs;
  if (!first) return [];
  const findings: PlacedFinding[] = [];
  for (const other of others) {
    const conflicts = findConflicts(first.value, other.value, path, lines, options);
    if (conflicts.length > 0) {
      findings.push(...conflicts.map((conflict) => refuseConflict(conflict, other, lines)));
      continue;
    }
    const at = `lines ${lineOf(first.key, lines)} and ${lineOf(other.key, lines)}`;
    findings.push({
      ...place(first, path, lines),
      message: `"${String(path.at(-1))}" is given twice (${at}): merged`,
      fix: '',
      severity: 'note',
    });
    if (isMap(first.value) && isMap(other.value)) first.value.items.push(...other.value.items);
    else if (isEmpty(first.value)) first.value = other.value;
  }
  map.items = map.items.filter((pair) => !others.includes(pair));
  return findings;
}

function refuseConflict(conflict: Conflict, pair: Pair, lines: Lines): PlacedFinding {
  const message = `can't be merged: ${conflict.told}`;
  return {
    ...place(pair, conflict.path, lines),
    message,
    fix: 'keep one of the two values',
    severity: 'error',
  };
}

interface Conflict {
  readonly path: FieldPath;
  /** Where and what the two values are. */
  readonly told: string;
}

function findConflicts(a: unknown, b: unknown, path: FieldPath, lines: Lines, options: Options): Conflict[] {
  if (isEmpty(a) || isEmpty(b)) return [];
  if (isMap(a) && isMap(b)) {
    return b.items.flatMap((pair) => {
      const key = keyOf(pair);
      const twin = a.items.find((other) => keyOf(other) === key);
      return twin ? findConflicts(twin.value, pair.value, [...path, key], lines, options) : [];
    });
  }
  if (!isAlias(a) && !isAlias(b) && sameValue(a, b)) return [];
  const tell = (node: unknown) => `line ${lineOf(node, lines)} holds ${describe(node, path, options)}`;
  return [{ path, told: `${formatPath(path)} (${tell(a)}; ${tell(b)})` }];
}

function isEmpty(node: unknown): boolean {
  return node === null || node === undefined || (isScalar(node) && node.value === null);
}

function sameValue(a: unknown, b: unknown): boolean {
  try {
    return isNode(a) && isNode(b) && JSON.stringify(a.toJSON()) === JSON.stringify(b.toJSON());
  } catch {
    // A reference inside can't be followed from here: to be on the safe side they differ.
    return false;
  }
}

const SENSITIVE = /pass|secret|token|credential|private|connectionstring|accesskey|storagekey/i;

/** What a value holds: the keys of a map and of the maps in it, the number of entries of a list, a short scalar. */
function describe(node: unknown, path: FieldPath, options: Options, depth = 0): string {
  if (isEmpty(node)) return 'nothing';
  if (isMap(node)) {
    const keys = node.items.map((pair) => {
      const inner = depth === 0 && isMap(pair.value) ? ` (${describe(pair.value, path, options, 1)})` : '';
      return `${keyOf(pair)}${inner}`;
    });
    return keys.length === 0 ? 'nothing' : keys.join(', ');
  }
  if (isSeq(node)) return node.items.length === 1 ? '1 entry' : `${node.items.length} entries`;
  if (isAlias(node)) return `a reference to ${show(node.source)}`;
  const hidden = options.masked || path.some((step) => SENSITIVE.test(String(step)));
  return hidden || !isScalar(node) ? 'a value' : show(String(node.value));
}
