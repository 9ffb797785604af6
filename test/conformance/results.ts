import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryRoot } from '../support/tools.ts';
import { cellName } from './cells.ts';
import type { CellResult } from './outcome.ts';

const DIRECTORY = join(repositoryRoot, '.walkeep/reports/matrix');

/** For scripts/lib/matrix-table.ts: a file for each cell, so that none waits for another. */
export function saveResult(result: CellResult): void {
  mkdirSync(DIRECTORY, { recursive: true });
  const name = cellName(result.cell).replaceAll(/[^A-Za-z0-9.]+/g, '-');
  writeFileSync(join(DIRECTORY, `${name}.json`), JSON.stringify(result, undefined, 2));
}
