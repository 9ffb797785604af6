import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  allCells,
  cellName,
  expectationOf,
  OPERATIONS,
  reducedCells,
  SHAPES,
  STORE_KINDS,
  type Cell,
  type Operation,
} from '../conformance/cells.ts';
import type { CellResult, Outcome } from '../conformance/outcome.ts';
import { matrixPage } from '../conformance/table.ts';
import { CODECS } from '../../streams/codec.ts';
import { MAJORS, repositoryRoot } from '../support/tools.ts';

/** As if every operation of a cell had come out as expected, but for some. */
function resultOf(cell: Cell, changes: Partial<Record<Operation, Outcome>> = {}): CellResult {
  const expected = OPERATIONS.map((operation) => [operation, expectationOf(cell, operation)] as const);
  const known = expected.flatMap(([operation, reason]) =>
    typeof reason === 'object' ? [[operation, reason.id]] : [],
  );
  const outcomes = expected.map(([operation, reason]): [Operation, Outcome] => [
    operation,
    typeof reason === 'object' ? 'as known' : (reason ?? 'works'),
  ]);
  return {
    cell,
    outcomes: { ...Object.fromEntries(outcomes), ...changes },
    reasons: Object.fromEntries(known),
    failures: Object.fromEntries(Object.keys(changes).map((operation) => [operation, 'it broke'])),
    seconds: 1,
  };
}

const linesOf = (page: string) => page.split('\n').filter((line) => line.startsWith('|'));

describe('the conformance matrix', () => {
  it('E5: has every cell once', () => {
    const names = allCells().map(cellName);
    expect(new Set(names).size).toBe(names.length);
  });

  it('E5: combines each codec with each store and release, and over the majors with each shape', () => {
    for (const writer of ['walkeep', 'barman'] as const) {
      const cells = allCells().filter((cell) => cell.writer === writer);
      const has = (wanted: Partial<Cell>) =>
        cells.some((cell) =>
          Object.entries(wanted).every(([name, value]) => cell[name as keyof Cell] === value),
        );
      for (const codec of CODECS) {
        for (const store of STORE_KINDS) {
          for (const release of ['3.10.0', '3.19.1', '3.20.1'] as const)
            expect(has({ codec, store, release }), `${codec} ${store} ${release}`).toBe(true);
        }
        for (const shape of SHAPES) expect(has({ codec, shape }), `${codec} ${shape}`).toBe(true);
      }
      for (const major of MAJORS) {
        for (const shape of SHAPES) {
          for (const store of STORE_KINDS) expect(has({ major, shape, store })).toBe(true);
        }
      }
    }
  });

  it('E5: names only barman where something is known not to work', () => {
    const reasons = allCells().flatMap((cell) =>
      OPERATIONS.map((operation) => expectationOf(cell, operation)),
    );
    for (const reason of reasons) if (typeof reason === 'object') expect(reason.whose).toBe('barman');
  });

  it('E5: what CloudNativePG runs works, but for tars with zstd', () => {
    const cells = allCells().filter(({ release }) => release === '3.19.1');
    const known = cells.filter((cell) => OPERATIONS.some((operation) => expectationOf(cell, operation)));
    expect(new Set(known.map(({ writer, codec }) => `${writer} ${codec}`))).toEqual(
      new Set(['walkeep zstd']),
    );
  });

  it('joins cells of one writer and release that came to the same into one line', () => {
    const cells = allCells();
    const page = matrixPage(
      cells,
      cells.map((cell) => resultOf(cell)),
    );
    const [, , ...rows] = linesOf(page);
    const works = rows.filter((row) => /^\| walkeep +\| 3\.19\.1 .*gzip/.test(row));
    expect(works).toHaveLength(1);
    expect(works[0]).toMatch(/S3, Azure, GCS +\| 15, 16, 17, 18 +\| plain, .*(\| ok +){8}\|$/);
    expect(page).toContain(`${cells.length} of ${cells.length} cells were run`);
    expect(page).toContain(', 0 failed.');
    expect(page).not.toContain('not run |');
  });

  it('is the table of docs/barman.md when all of it comes out as expected', () => {
    const cells = allCells();
    const page = matrixPage(
      cells,
      cells.map((cell) => resultOf(cell)),
    );
    // prettier writes widths its own way
    const plain = (text: string) => text.replaceAll(/ +/g, ' ').replaceAll(/-+/g, '-');
    const docs = plain(readFileSync(`${repositoryRoot}/docs/barman.md`, 'utf8'));
    for (const line of page.split('\n').slice(2)) expect(docs).toContain(plain(line));
  });

  it('shows a failure by itself, and what it said', () => {
    const cells = reducedCells();
    const [first, ...others] = cells.map((cell) => resultOf(cell));
    if (first === undefined) throw new Error('there are no cells');
    const page = matrixPage(cells, [resultOf(first.cell, { restore: 'failed' }), ...others]);
    expect(page).toContain('1 failed');
    expect(linesOf(page).filter((row) => row.includes('FAILED'))).toHaveLength(1);
    expect(page).toContain(`- FAILED: ${cellName(first.cell)}: restore: it broke`);
  });

  it('does not take what did not run for what works', () => {
    const cells = allCells();
    const page = matrixPage(
      cells,
      cells.filter(({ release }) => release !== '3.20.1').map((cell) => resultOf(cell)),
    );
    expect(page).toContain('nothing with barman-cloud 3.20.1');
    const rows = linesOf(page).filter((row) => row.includes('3.20.1'));
    expect(rows.every((row) => row.includes('not run') && !row.includes('ok'))).toBe(true);
  });

  it('gives the reason of what is known, and whose it is', () => {
    const cells = allCells();
    const page = matrixPage(
      cells,
      cells.map((cell) => resultOf(cell)),
    );
    const [row] = linesOf(page).filter((line) => /^\| walkeep +\| 3\.19\.1 +\| zstd +\|/.test(line));
    expect(row).toContain('base-not-found');
    expect(page).toMatch(/- `base-not-found`, barman's: /);
  });
});
