import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { repositoryRoot } from '../support/tools.ts';

const ROWS = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 18, 19, 21, 26, 28, 30, 31, 34, 35, 36, 38];
const OPERATIONS = ['backup', 'archive', 'restore'];
const OF_PROOFS = [1, 2, 3, 5, 6, 8, 11, 13, 14, 15, 16, 18, 19, 21, 26, 34, 36, 37];
const OF_SWEEPS = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 18, 19, 21, 26, 34, 35, 36, 37, 38];
/** Where every operation has a test. */
const OF_STORES = [17, 20, 22, 23, 24, 25, 27, 29, 32, 33];
const ALL_OPERATIONS = [...OPERATIONS, 'verify', 'sweep', 'schedule', 'controller'];
/** Row and operation. */
const CELLS = [
  ...ROWS.flatMap((row) => OPERATIONS.map((operation) => [row, operation] as const)),
  ...OF_PROOFS.map((row) => [row, 'verify'] as const),
  ...OF_STORES.flatMap((row) => ALL_OPERATIONS.map((operation) => [row, operation] as const)),
  ...OF_SWEEPS.flatMap((row) => [[row, 'sweep'] as const, [row, 'schedule'] as const]),
];

const page = readFileSync(join(repositoryRoot, 'test/faults/README.md'), 'utf8');
/** The cells of every line of a table that names a test: the last two are its title and its file. */
const lines = page
  .split('\n')
  .filter((line) => line.startsWith('| ') && !line.startsWith('| ---'))
  .map((line) =>
    line
      .split(/(?<!\\)\|/)
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
const named = lines
  .map((cells) => ({ title: cells.at(-2) ?? '', file: cells.at(-1) ?? '' }))
  .filter(({ title }) => title.startsWith('`'))
  .map(({ title, file }) => ({ title: title.slice(1, -1).replaceAll('\\|', '|'), file }));

describe('the page of fault tests', () => {
  it('names tests that exist', () => {
    expect(named.length).toBeGreaterThan(50);
    const missing = named.filter(({ title, file }) => {
      const path = join(repositoryRoot, file);
      if (!existsSync(path)) return true;
      // As it stands in the source, where an apostrophe of ours needs no escape: all of it, between its quotes.
      const source = readFileSync(path, 'utf8').replaceAll(/\s*\n\s*/g, ' ');
      return !["'", '`', '"'].some((quote) => source.includes(quote + title + quote));
    });
    expect(missing).toEqual([]);
  });

  it('has every cell of its rows: a test, or a dash', () => {
    for (const [row, operation] of CELLS) {
      const cells = lines.filter(([number, , of]) => number === String(row) && of === operation);
      expect(cells, `row ${row}, ${operation}`).not.toEqual([]);
      const isCovered = cells.some((line) => line.at(-1) !== '') || cells.every((line) => line[3] === '–');
      expect(isCovered, `row ${row}, ${operation}`).toBe(true);
    }
  });
});
