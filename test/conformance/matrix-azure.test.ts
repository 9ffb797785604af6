import { codecCells } from './cells.ts';
import { describeCells } from './run-cells.ts';

describeCells(codecCells('Azure'));
