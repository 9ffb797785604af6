import { reducedCells } from './cells.ts';
import { describeCells } from './run-cells.ts';

describeCells(reducedCells());
