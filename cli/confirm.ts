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
  const answer = await ask(`${question.what}. Go on? [y/N] `);
  if (/^y(es)?$/i.test(answer.trim())) return;
  throw new BackupError('usage', question.declined, { hint: 'answer y to go on' });
}

/** Ctrl-D and Ctrl-C, and a terminal that goes away, are no answer, and so are no yes. */
async function ask(text: string): Promise<string> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return await new Promise<string>((resolve, reject) => {
      terminal.once('close', () => resolve(''));
      terminal.once('SIGINT', () => resolve(''));
      terminal.question(text).then(resolve, (error: unknown) => {
        if (error instanceof Error && error.name === 'AbortError') resolve('');
        else reject(error);
      });
    });
  } finally {
    terminal.close();
  }
}
