/** Runs the commands of the quickstart as they are printed. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { answer, prompt, remark, seconds } from './terminal.ts';

/** A step that did not go as it should. What to do is for the reader, the log is where more is said. */
export class StepFailed extends Error {
  readonly advice: string;
  readonly log: string | undefined;

  constructor(what: string, advice: string, log?: string) {
    super(what);
    this.advice = advice;
    this.log = log;
  }
}

export interface Showing {
  /** Lines of the output that are worth reading, from the first; the others are counted. */
  readonly lines?: number;
  /** What to do when it fails. */
  readonly advice?: string;
  /** Where more is said when it fails. */
  readonly log?: string;
  /** Exit codes that are no failure. */
  readonly accept?: readonly number[];
  readonly timeoutMs?: number;
  /** A command that takes longer than this gets its duration printed. */
  readonly slowMs?: number;
}

export interface Shell {
  /** Prints a command, runs it, and prints what it answers. @returns standard output */
  show(line: string, showing?: Showing): Promise<string>;
  /** Runs a command without a word: for what only the script wants to know. @returns standard output */
  ask(line: string): Promise<string>;
  /** Ends the command that runs now, and lets no other begin. */
  interrupt(): void;
}

const TIMEOUT_MS = 180_000;
const WORTH_SAYING_MS = 2_000;

/**
 * A shell in which every command has the same folder and environment. The printed line itself is what runs, by bash:
 * only so is it certain that the reader can repeat it. It is made of words of ours, never of anybody's input.
 */
export function createShell(folder: string, environment: Readonly<Record<string, string>>): Shell {
  let running: ReturnType<typeof spawn> | undefined;
  let isClosed = false;

  const run = async (line: string, onLine: (text: string) => void, showing: Showing): Promise<string> => {
    if (isClosed) throw new StepFailed('interrupted', '');
    const began = performance.now();
    const child = spawn('bash', ['-o', 'pipefail', '-c', line], {
      cwd: folder,
      env: environment,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    running = child;
    const killer = setTimeout(() => child.kill('SIGKILL'), showing.timeoutMs ?? TIMEOUT_MS);
    const kept: string[] = [];
    const ended = new Promise<number>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) => resolve(code ?? (signal ? 128 : 1)));
    });
    const outputs = [
      eachLine(child.stdout, (text) => {
        kept.push(text);
        onLine(text);
      }),
      eachLine(child.stderr, onLine),
    ];
    try {
      const code = await ended;
      await Promise.all(outputs);
      if (code !== 0 && !showing.accept?.includes(code)) {
        throw new StepFailed(
          `this command ended with ${code}: ${line}`,
          showing.advice ?? 'see what it wrote',
          showing.log,
        );
      }
    } finally {
      clearTimeout(killer);
      running = undefined;
    }
    const took = performance.now() - began;
    if (took > (showing.slowMs ?? WORTH_SAYING_MS)) remark(`(${seconds(took)})`);
    return kept.join('\n');
  };

  return {
    async show(line, showing = {}) {
      prompt(line);
      const limit = showing.lines ?? 20;
      const left: string[] = [];
      let printed = 0;
      let blanks = 0;
      const onLine = (text: string): void => {
        if (text === '') {
          blanks += 1; // printed only if something follows
        } else if (printed < limit) {
          for (; blanks > 0; blanks -= 1) answer('');
          printed += 1;
          answer(text);
        } else left.push(text);
      };
      try {
        const output = await run(line, onLine, showing);
        if (left.length > 0 && limit > 0)
          remark(`… and ${left.length} more ${left.length === 1 ? 'line' : 'lines'}`);
        return output;
      } catch (error) {
        for (const text of left.slice(-20)) answer(text);
        throw error;
      }
    },
    async ask(line) {
      const said: string[] = [];
      try {
        return await run(line, (text) => said.push(text), { slowMs: Infinity });
      } catch (error) {
        for (const text of said.slice(-10)) answer(text);
        throw error;
      }
    },
    interrupt() {
      isClosed = true;
      running?.kill('SIGTERM');
    },
  };
}

async function eachLine(stream: Readable, use: (text: string) => void): Promise<void> {
  for await (const line of createInterface({ input: stream, crlfDelay: Infinity })) use(line);
}
