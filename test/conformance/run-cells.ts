import { afterAll, beforeAll, it } from 'vitest';
import { describeWith } from '../support/tools.ts';
import { cellName, expectationOf, OPERATIONS, type Cell, type Operation, type StoreKind } from './cells.ts';
import { runOperation, type Bench } from './operations.ts';
import { openFolder, openPlace, releaseTool, STORE_TOOL, type Place } from './places.ts';
import type { CellResult, Outcome } from './outcome.ts';
import { saveResult } from './results.ts';
import { openSource, type Source } from './source.ts';

const OPERATION_TIMEOUT_MS = 300_000;

/** Runs cells one after the other. Servers are made when the first cell needs them, and shared by those that follow. */
export function describeCells(cells: readonly Cell[]): void {
  const places = new Map<StoreKind, Promise<Place>>();
  const sources = new Map<string, Promise<Source>>();
  const placeOf = ({ store }: Cell) => remembered(places, store, () => openPlace(store));
  const sourceOf = ({ major, shape }: Cell) => {
    const withTablespaces = shape === 'tablespaces';
    return remembered(sources, `${major} ${withTablespaces}`, () => openSource(major, withTablespaces));
  };
  cells.forEach((cell, nth) => {
    describeWith([STORE_TOOL[cell.store], releaseTool(cell.release)], cellName(cell), () => {
      describeCell(cell, async () => {
        const [place, source] = [await placeOf(cell), await sourceOf(cell)];
        // PostgreSQL's restore_command finds credentials where its postmaster has them: in our environment
        Object.assign(process.env, place.environment);
        const folder = openFolder(place, `cell-${nth}`, cell.release);
        return { cell, source, folder, unused: openFolder(place, `unused-${nth}`, cell.release) };
      });
    });
  });
}

function describeCell(cell: Cell, open: () => Promise<Bench>): void {
  let bench: Bench;
  let began = 0;
  const outcomes: Partial<Record<Operation, Outcome>> = {};
  const reasons: Partial<Record<Operation, string>> = {};
  const failures: Partial<Record<Operation, string>> = {};

  beforeAll(async () => {
    began = performance.now();
    bench = await open();
  });
  afterAll(() => {
    const seconds = Math.round((performance.now() - began) / 1000);
    const result: CellResult = { cell, outcomes, reasons, failures, seconds };
    saveResult(result);
  });

  for (const operation of OPERATIONS) {
    const expected = expectationOf(cell, operation);
    if (expected === 'unwritten') {
      outcomes[operation] = 'unwritten';
      continue;
    }
    it(
      `E5: ${operation}${expected === undefined ? '' : ` (known: ${expected.id}, ${expected.whose}'s)`}`,
      async () => {
        outcomes[operation] = 'failed';
        await runOperation(operation, bench, expected).catch((error: unknown) => {
          failures[operation] = String(error).split('\n').slice(0, 3).join(' ');
          throw error;
        });
        outcomes[operation] = expected === undefined ? 'works' : 'as known';
        if (expected !== undefined) reasons[operation] = expected.id;
      },
      OPERATION_TIMEOUT_MS,
    );
  }
}

function remembered<Key, Value>(
  known: Map<Key, Promise<Value>>,
  key: Key,
  make: () => Promise<Value>,
): Promise<Value> {
  const made = known.get(key) ?? make();
  known.set(key, made);
  return made;
}
