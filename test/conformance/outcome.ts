import type { Cell, Operation } from './cells.ts';

/** What an operation of a cell came to; `unwritten`: there was nothing to be read, as is known. */
export type Outcome = 'works' | 'as known' | 'unwritten' | 'failed';

/** What a cell came to. Plain JSON. */
export interface CellResult {
  readonly cell: Cell;
  /** What is missing did not run. */
  readonly outcomes: Partial<Record<Operation, Outcome>>;
  /** Ids of reasons, of what is known. */
  readonly reasons: Partial<Record<Operation, string>>;
  /** What was said of a failure, its first lines. */
  readonly failures: Partial<Record<Operation, string>>;
  readonly seconds: number;
}
