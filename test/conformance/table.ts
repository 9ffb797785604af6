/** The page that says what the matrix came to. Pure. */
import {
  baseCodecOf,
  cellName,
  OPERATIONS,
  REASONS,
  RELEASES,
  STORE_KINDS,
  type Cell,
  type Operation,
} from './cells.ts';
import type { CellResult, Outcome } from './outcome.ts';

export type Row = CellResult;

/** What stands in a column, by how bad it is: the worst of the cells that share a line is shown. */
const MARKS: Record<Outcome | 'not run', string> = {
  works: 'ok',
  'as known': '',
  unwritten: '–',
  'not run': 'not run',
  failed: 'FAILED',
};

/**
 * A line for each way to write and read; cells that differ in the store only and came to the same share one. Below it,
 * why something does not work, and what was not run.
 */
export function matrixPage(cells: readonly Cell[], rows: readonly Row[]): string {
  const byName = new Map(rows.map((row) => [cellName(row.cell), row]));
  const lines = new Map<string, string[]>();
  const counts = { ok: 0, known: 0, failed: 0, missing: 0 };
  for (const cell of cells) {
    const row = byName.get(cellName(cell));
    const marks = OPERATIONS.map((operation) => markOf(row, operation));
    count(counts, row);
    const key = [...describe(cell), ...marks].join('\u0000');
    lines.set(key, [...(lines.get(key) ?? []), cell.store]);
  }
  const table = [...lines].map(([key, stores]) => {
    const [who = '', release = '', major = '', shape = '', codecs = '', ...marks] = key.split('\u0000');
    const where = STORE_KINDS.every((store) => stores.includes(store)) ? 'all' : stores.join(', ');
    return [who, release, major, shape, codecs, where, ...marks];
  });
  const head = ['writer', 'barman-cloud', 'PostgreSQL', 'shape', 'codec', 'store', ...OPERATIONS];
  const used = new Set(rows.flatMap(({ reasons }) => Object.values(reasons)));
  const reasons = Object.values(REASONS).filter(({ id }) => used.has(id));
  return [
    `${counts.ok} answers as they should be, ${counts.known} that are known not to work, ${counts.failed} failed; ${counts.missing} of ${cells.length} cells were not run.`,
    '',
    ...markdown(head, table),
    '',
    ...reasons.map(({ id, whose, text }) => `- \`${id}\`, ${whose}'s: ${text}.`),
    ...notRun(cells, byName),
    ...rows.flatMap(failuresOf),
    '',
  ].join('\n');
}

function describe(cell: Cell): string[] {
  const base = baseCodecOf(cell);
  const codecs = base === cell.codec ? cell.codec : `${cell.codec}, tars ${base}`;
  return [cell.writer, cell.release, String(cell.major), cell.shape, codecs];
}

function markOf(row: Row | undefined, operation: Operation): string {
  const outcome = row?.outcomes[operation] ?? 'not run';
  return outcome === 'as known' ? (row?.reasons[operation] ?? '') : MARKS[outcome];
}

function count(counts: { ok: number; known: number; failed: number; missing: number }, row?: Row): void {
  if (row === undefined) counts.missing += 1;
  for (const outcome of Object.values(row?.outcomes ?? {})) {
    if (outcome === 'works') counts.ok += 1;
    if (outcome === 'as known') counts.known += 1;
    if (outcome === 'failed') counts.failed += 1;
  }
}

function notRun(cells: readonly Cell[], byName: ReadonlyMap<string, Row>): string[] {
  return RELEASES.flatMap((release) => {
    const own = cells.filter((cell) => cell.release === release);
    if (own.some((cell) => byName.has(cellName(cell)))) return [];
    return [`- \`not run\`: this machine has no barman-cloud ${release}, or no Python that it accepts.`];
  });
}

function failuresOf({ cell, failures }: Row): string[] {
  return Object.entries(failures).map(
    ([operation, text]) => `- FAILED: ${cellName(cell)}: ${operation}: ${text}`,
  );
}

function markdown(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = head.map((title, at) =>
    Math.max(title.length, ...rows.map((row) => (row[at] ?? '').length)),
  );
  const line = (row: readonly string[]) =>
    `| ${row.map((text, at) => text.padEnd(widths[at] ?? 0)).join(' | ')} |`;
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)];
}
