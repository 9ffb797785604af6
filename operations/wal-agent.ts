import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { basename, dirname, join, resolve } from 'node:path';
import { realpath } from 'node:fs/promises';
import { BackupError, isBackupError, messageOf, type ErrorCode } from '../core/errors.ts';
import { parseWalFileName } from '../core/segment.ts';
import { readControlData } from '../postgres/control-data.ts';
import type { ClusterIdentity } from '../postgres/wal-identity.ts';
import { readArchiveStatus } from './archive-status.ts';
import type { ArchiveSource } from './archive-source.ts';
import { listenPrivately, type PrivateSocket } from './private-socket.ts';
import { createUploads, type Uploads } from './wal-uploads.ts';
import { createLatencies, type LatencyHistogram } from './latency-histogram.ts';

export interface WalAgentPorts {
  /** At most 99 bytes; its directory is made private (0700). */
  readonly socketPath: string;
  readonly pgdata: string;
  /** Where WAL goes at this moment. */
  readonly source: ArchiveSource;
  /** Whose data directory it is; by default what its `pg_control` says. */
  readonly identity?: () => Promise<ClusterIdentity>;
  /** Fetches for `restore_command`; absent where this agent serves no recovery. `destination` lies in `pg_wal`. */
  readonly fetch?: (
    fileName: string,
    destination: string,
    options: { readonly signal: AbortSignal },
  ) => Promise<{ readonly outcome: 'fetched' | 'absent' | 'hole' }>;
  /** One call for each answer. Default: nobody is told. */
  readonly report?: (event: WalAgentEvent) => void;
  /** Told of what was damaged in the archive and was set right by a push. Default: nobody. */
  readonly alert?: (message: string) => void;
  /** How long PostgreSQL waits for an answer, in milliseconds (A5). */
  readonly answerWithinMs?: number;
}

/** An answer, for the log. */
export interface WalAgentEvent {
  readonly request: 'wal-push' | 'wal-fetch';
  readonly name: string;
  readonly answer: AnswerWord;
  readonly ms: number;
  readonly error?: unknown;
}

/**
 * `archived`, `fetched`, `absent` are facts that the client may pass on. `failed` is final: the client reports it.
 * `unable` says nothing about the file: the client does the work by itself.
 */
export type AnswerWord = 'archived' | 'fetched' | 'absent' | 'failed' | 'unable';

/** What an agent did since it started, and what waits. Plain JSON; times are ISO 8601. */
export interface WalAgentStatus {
  readonly version: 1;
  readonly pid: number;
  readonly startedAt: string;
  /** Where WAL goes; absent until the first file came, or when that is not known. */
  readonly archive?: {
    readonly url: string;
    readonly codec: string;
    readonly maxParallel: number;
    readonly revision: string;
  };
  readonly lastArchived?: { readonly name: string; readonly at: string };
  readonly lastFailure?: {
    readonly name: string;
    readonly at: string;
    readonly code: string;
    readonly message: string;
  };
  /** Answers to PostgreSQL. `archivedAhead` were stored before it asked. */
  readonly answers: {
    readonly archived: number;
    readonly archivedAhead: number;
    readonly failed: number;
    readonly fetched: number;
    readonly absent: number;
    readonly fetchFailed: number;
  };
  readonly uploads: {
    readonly files: number;
    readonly failed: number;
    readonly plainBytes: number;
    readonly storedBytes: number;
    /** Copies in the archive that were damaged, and were replaced by what `pg_wal` has. */
    readonly repaired: number;
    readonly running: number;
    /** Stored, and not asked for yet. */
    readonly ahead: number;
  };
  /** From `archive_status`: what PostgreSQL has not been told is archived. */
  readonly waiting?: { readonly files: number; readonly segments: number; readonly oldest?: string };
  /** Time from question to answer of `wal-push`. */
  readonly pushLatency: LatencyHistogram;
}

export interface WalAgent {
  /** @throws BackupError `config-invalid` when another agent listens there, or the socket can't be private */
  start(): Promise<void>;
  /** Takes no more requests, lets what was asked for end within `drainMs`, then gives up the rest. */
  stop(options?: { readonly drainMs?: number }): Promise<void>;
  status(): Promise<WalAgentStatus>;
}

const ANSWER_WITHIN_MS = 50_000;
/** A failure that came faster than this leaves the full client its whole time within the 60 s of A5. */
const TIME_FOR_ANOTHER_TRY_MS = 8_000;
/** The full client would come to the same judgement. */
const FINAL: readonly ErrorCode[] = ['wal-conflict', 'wal-foreign', 'format-invalid', 'object-damaged'];
const SIGN_OF_LIFE_MS = 1_000;
/** Twice what `deploy/walkeep-wal` wants to see in a second, and not more: curl averages, and a stall has to show. */
const SIGN_OF_LIFE = ' '.repeat(8);

/**
 * The process that archives for PostgreSQL's clients on this host: it answers on a unix socket, keeps connections to
 * the store open, and uploads ahead of PostgreSQL's questions. It holds no state that counts: killed at any moment,
 * the clients do the work themselves.
 */
export function createWalAgent(ports: WalAgentPorts): WalAgent {
  return new Agent(ports);
}

class Agent implements WalAgent {
  readonly #ports: WalAgentPorts;
  readonly #pgWalDirectory: string;
  readonly #uploads: Uploads;
  readonly #stopping = new AbortController();
  readonly #startedAt = new Date();
  readonly #latencies = createLatencies();
  readonly #answers = { archived: 0, archivedAhead: 0, failed: 0, fetched: 0, absent: 0, fetchFailed: 0 };
  #lastArchived: WalAgentStatus['lastArchived'];
  #lastFailure: WalAgentStatus['lastFailure'];
  #socket: PrivateSocket | undefined;
  readonly #server: Server;
  readonly #open = new Set<Promise<void>>();

  constructor(ports: WalAgentPorts) {
    this.#ports = ports;
    this.#pgWalDirectory = join(ports.pgdata, 'pg_wal');
    this.#uploads = createUploads({
      pgdata: ports.pgdata,
      source: ports.source,
      identity: ports.identity ?? (() => readControlData(ports.pgdata)),
      alert: ports.alert,
      signal: this.#stopping.signal,
    });
    this.#server = createServer({ requestTimeout: 10_000, headersTimeout: 5_000 }, (request, response) => {
      const handled = this.#handle(request, response).finally(() => this.#open.delete(handled));
      this.#open.add(handled);
    });
    this.#server.maxConnections = 64;
  }

  async start(): Promise<void> {
    this.#socket = await listenPrivately(this.#server, this.#ports.socketPath);
  }

  async stop({ drainMs = 30_000 }: { drainMs?: number } = {}): Promise<void> {
    // the socket goes first: who comes now is not kept waiting, but does the work by itself
    await this.#socket?.close();
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<void>((done) => (timer = setTimeout(done, drainMs)));
    await Promise.race([Promise.all(this.#open), limit]);
    clearTimeout(timer);
    this.#stopping.abort(new BackupError('agent-unavailable', 'the archiving agent stops'));
    await this.#uploads.settled();
    await Promise.all(this.#open);
    this.#server.closeAllConnections();
    await this.#ports.source.close();
  }

  async status(): Promise<WalAgentStatus> {
    const waiting = await readArchiveStatus(this.#pgWalDirectory).catch(() => undefined);
    const oldest = waiting?.ready[0]?.name;
    const archive = this.#ports.source.opened();
    return {
      version: 1,
      pid: process.pid,
      startedAt: this.#startedAt.toISOString(),
      ...(archive && {
        archive: {
          url: archive.repository.url,
          codec: archive.storage.codec,
          maxParallel: archive.maxParallel,
          revision: archive.revision,
        },
      }),
      ...(this.#lastArchived && { lastArchived: this.#lastArchived }),
      ...(this.#lastFailure && { lastFailure: this.#lastFailure }),
      answers: { ...this.#answers },
      uploads: this.#uploads.counts(),
      ...(waiting && {
        waiting: { files: waiting.ready.length, segments: waiting.readySegments, ...(oldest && { oldest }) },
      }),
      pushLatency: this.#latencies.read(),
    };
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    request.resume();
    const url = new URL(request.url ?? '/', 'http://walkeep');
    const name = url.searchParams.get('name') ?? '';
    try {
      if (request.method === 'POST' && url.pathname === '/wal-push') {
        await this.#answer('wal-push', name, response, (signal) => this.#push(name, signal));
      } else if (request.method === 'POST' && url.pathname === '/wal-fetch') {
        const to = url.searchParams.get('to') ?? '';
        await this.#answer('wal-fetch', name, response, (signal) => this.#fetch(name, to, signal));
      } else if (request.method === 'GET' && url.pathname === '/status') {
        const body = `${JSON.stringify(await this.status())}\n`;
        response.writeHead(200, { 'content-type': 'application/json', connection: 'close' }).end(body);
      } else {
        response.writeHead(404, { connection: 'close' }).end('walkeep unknown request\n');
      }
    } catch {
      // whatever went wrong here, the client hears no word and does the work by itself
      response.destroy();
    }
  }

  /** Answers with exactly one line; blanks before it are signs of life while the work goes on. */
  async #answer(
    request: WalAgentEvent['request'],
    name: string,
    response: ServerResponse,
    work: (signal: AbortSignal) => Promise<AnswerWord>,
  ): Promise<void> {
    const begin = performance.now();
    response.on('error', () => undefined);
    // C3: a fetch that nobody waits for any more must not write below a name that PostgreSQL uses for the next file
    const left = new AbortController();
    response.once('close', () => left.abort(new BackupError('agent-unavailable', 'whoever asked has gone')));
    const signals = request === 'wal-fetch' ? [this.#stopping.signal, left.signal] : [this.#stopping.signal];
    const life = setInterval(() => {
      if (response.destroyed) return;
      if (!response.headersSent)
        response.writeHead(200, { 'content-type': 'text/plain', connection: 'close' });
      response.write(SIGN_OF_LIFE);
    }, SIGN_OF_LIFE_MS);
    let event: WalAgentEvent;
    let line: string;
    try {
      const word = await work(AbortSignal.any(signals));
      line = `walkeep ${word} ${name}`;
      event = { request, name, answer: word, ms: performance.now() - begin };
    } catch (error) {
      const ms = performance.now() - begin;
      const answer = request === 'wal-push' && isFinal(error, ms) ? 'failed' : 'unable';
      line = `walkeep ${answer} ${printable(name)} ${describeFailure(error)}`;
      event = { request, name: printable(name), answer, ms, error };
    } finally {
      clearInterval(life);
    }
    this.#count(event);
    this.#ports.report?.(event);
    // who asked has gone; the work was not in vain, PostgreSQL asks again
    if (response.destroyed) return;
    const body = `${line}\n`;
    if (!response.headersSent) {
      response.writeHead(200, {
        'content-type': 'text/plain',
        'content-length': Buffer.byteLength(body),
        connection: 'close',
      });
    }
    await new Promise<void>((sent) => {
      response.once('close', sent);
      response.end(body);
    });
  }

  async #push(name: string, stopping: AbortSignal): Promise<AnswerWord> {
    const file = parseWalFileName(name);
    if (!file) throw new BackupError('format-invalid', `"${printable(name)}" is not the name of a WAL file`);
    const withinMs = this.#ports.answerWithinMs ?? ANSWER_WITHIN_MS;
    const limit = AbortSignal.timeout(withinMs);
    try {
      const { ahead } = await this.#uploads.ensure(file, AbortSignal.any([stopping, limit]));
      if (ahead) this.#answers.archivedAhead += 1;
      return 'archived';
    } catch (error) {
      if (!limit.aborted || stopping.aborted) throw error;
      throw new BackupError('deadline-exceeded', `${name}: not archived within ${withinMs / 1000} s`, {
        cause: error,
        hint: 'the upload goes on and PostgreSQL asks again; look at the way to the store and at its load',
      });
    }
  }

  async #fetch(name: string, to: string, stopping: AbortSignal): Promise<AnswerWord> {
    if (!parseWalFileName(name))
      throw new BackupError('format-invalid', `"${printable(name)}" is not the name of a WAL file`);
    if (!this.#ports.fetch) throw new BackupError('not-yet', 'this agent serves no recovery');
    const destination = await this.#destination(to);
    const { outcome } = await this.#ports.fetch(name, destination, { signal: stopping });
    if (outcome === 'hole') throw new BackupError('wal-hole', `${name} is missing in the archive`);
    return outcome;
  }

  /** A8: the only thing ever written into `pg_wal` is the one file PostgreSQL asks for. */
  async #destination(to: string): Promise<string> {
    const path = resolve(this.#ports.pgdata, to);
    const isBelow = (await realpath(dirname(path))) === (await realpath(this.#pgWalDirectory));
    if (isBelow && /^[A-Za-z0-9_][A-Za-z0-9_.]*$/.test(basename(path))) return path;
    throw new BackupError('config-invalid', `"${printable(to)}" is not a file of pg_wal`);
  }

  #count({ request, name, answer, ms, error }: WalAgentEvent): void {
    if (request === 'wal-push') this.#latencies.add(ms);
    const at = new Date().toISOString();
    if (answer === 'archived') this.#lastArchived = { name, at };
    if (answer === 'archived' || answer === 'fetched' || answer === 'absent') {
      this.#answers[answer] += 1;
      return;
    }
    if (request === 'wal-fetch') {
      this.#answers.fetchFailed += 1;
      return;
    }
    this.#answers.failed += 1;
    const code = error instanceof BackupError ? error.code : 'unforeseen';
    this.#lastFailure = { name, at, code, message: oneLine(messageOf(error)) };
  }
}

function isFinal(error: unknown, ms: number): boolean {
  return isBackupError(error, ...FINAL, 'deadline-exceeded') || ms > TIME_FOR_ANOTHER_TRY_MS;
}

/** `code: message; what to do`, in one line. */
function describeFailure(error: unknown): string {
  if (!(error instanceof BackupError)) return `unforeseen: ${oneLine(messageOf(error))}`;
  return oneLine(`${error.code}: ${error.message}; ${error.hint}`);
}

function oneLine(text: string): string {
  return text
    .replaceAll(/[\s\p{Cc}]+/gu, ' ')
    .trim()
    .slice(0, 2000);
}

/** A name from outside: no blanks, nothing that could look like another word of the answer. */
function printable(name: string): string {
  return name.replaceAll(/[^A-Za-z0-9._/-]/g, '?').slice(0, 100) || '-';
}
