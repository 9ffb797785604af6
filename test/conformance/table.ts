/** The page that says what the matrix came to. Pure. */
import { cellName, OPERATIONS, REASONS, RELEASES, type Cell, type Operation } from './cells.ts';
import type { CellResult, Outcome } from './outcome.ts';

const MARKS: Record<Outcome | 'not run', string> = {
  works: 'ok',
  'as known': '',
  unwritten: '–',
  'not run': 'not run',
  failed: 'FAILED',
};

/**
 * A line for all cells of one writer and release that came to the same, which says what they were. Below it, why
 * something does not work, what failed, and which release was not run.
 */
export function matrixPage(cells: readonly Cell[], results: readonly CellResult[]): string {
  const byName = new Map(results.map((result) => [cellName(result.cell), result]));
  const lines = new Map<string, Cell[]>();
  for (const cell of cells) {
    const marks = OPERATIONS.map((operation) => markOf(byName.get(cellName(cell)), operation));
    const key = [cell.writer, cell.release, ...marks].join('\u0000');
    lines.set(key, [...(lines.get(key) ?? []), cell]);
  }
  const table = [...lines].map(([key, own]) => {
    const [writer = '', release = '', ...marks] = key.split('\u0000');
    const all = (of: (cell: Cell) => string | number) => [...new Set(own.map(of))].join(', ');
    const what = [all(({ codec }) => codec), all(({ store }) => store)];
    const where = [all(({ major }) => major), all(({ shape }) => shape), String(own.length)];
    return [writer, release, ...what, ...where, ...marks];
  });
  const head = ['writer', 'barman', 'codecs', 'stores', 'PostgreSQL', 'shapes', 'cells', ...OPERATIONS];
  return [
    summary(cells, byName),
    '',
    ...markdown(head, table),
    '',
    ...reasonsOf(results),
    ...notRun(cells, byName),
    ...results.flatMap(failuresOf),
    '',
  ].join('\n');
}

function markOf(result: CellResult | undefined, operation: Operation): string {
  const outcome = result?.outcomes[operation] ?? 'not run';
  return outcome === 'as known' ? (result?.reasons[operation] ?? '') : MARKS[outcome];
}

function summary(cells: readonly Cell[], byName: ReadonlyMap<string, CellResult>): string {
  const results = cells.flatMap((cell) => byName.get(cellName(cell)) ?? []);
  const outcomes = results.flatMap((result) => Object.values(result.outcomes));
  const count = (wanted: Outcome) => outcomes.filter((outcome) => outcome === wanted).length;
  const ran = `${results.length} of ${cells.length} cells were run`;
  return `${ran}: ${count('works')} times it works, ${count('as known')} times it does not, as is known, ${count('failed')} failed.`;
}

function reasonsOf(results: readonly CellResult[]): string[] {
  const used = new Set(results.flatMap(({ reasons }) => Object.values(reasons)));
  return Object.values(REASONS)
    .filter(({ id }) => used.has(id))
    .map(({ id, whose, text }) => `- \`${id}\`, ${whose}'s: ${text}.`);
}

function notRun(cells: readonly Cell[], byName: ReadonlyMap<string, CellResult>): string[] {
  return RELEASES.flatMap((release) => {
    const own = cells.filter((cell) => cell.release === release);
    if (own.length === 0 || own.some((cell) => byName.has(cellName(cell)))) return [];
    return [
      `- \`not run\`: nothing with barman-cloud ${release}: it was left out, or this machine has no Python that it accepts.`,
    ];
  });
}

function failuresOf({ cell, failures }: CellResult): string[] {
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
