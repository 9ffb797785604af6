import { shapeCells } from './cells.ts';
import { describeCells } from './run-cells.ts';

describeCells(shapeCells(15));
