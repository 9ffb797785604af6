import { createInterface } from 'node:readline/promises';
import { BackupError } from '../core/errors.ts';

export interface Question {
  /** Without its `Go on?`. */
  readonly what: string;
  /** Why nothing was done, when nobody can be asked. */
  readonly unasked: string;
  /** What to do then. */
  readonly hint: string;
  /** Why nothing was done, when the answer is no. */
  readonly declined: string;
}

/**
 * Goes on when a person at the terminal says yes, or a program said it with `--yes`.
 *
 * @param mayAsk false where standard output is for a program
 * @throws BackupError `usage` when nobody says yes
 */
export async function requireYes(question: Question, yes: boolean, mayAsk = true): Promise<void> {
  if (yes) return;
  if (!process.stdin.isTTY || !mayAsk)
    throw new BackupError('usage', question.unasked, { hint: question.hint });
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await terminal.question(`${question.what}. Go on? [y/N] `).finally(() => terminal.close());
  if (/^y(es)?$/i.test(answer.trim())) return;
  throw new BackupError('usage', question.declined, { hint: 'answer y to go on' });
}
