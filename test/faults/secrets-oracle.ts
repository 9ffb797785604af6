/** O4: nothing that others can read holds a secret. */
import { existsSync, lstatSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client } from '@temporalio/client';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { descendantsOf } from '../support/processes.ts';

export interface Readable {
  readonly client: Client;
  /** What programs wrote, and what they serve. */
  readonly texts: readonly string[];
  /** Whose command lines and environments, and those of all they started, are read. */
  readonly pids: readonly number[];
}

/** @returns how many histories were read */
export async function requireNoSecrets(secrets: readonly string[], readable: Readable): Promise<number> {
  const { client, texts, pids } = readable;
  const look = lookFor(secrets);
  const histories = await requireSilentHistories(look, client);
  for (const [at, text] of texts.entries()) look(`output ${at}`, text);
  for (const pid of pids.flatMap((one) => [one, ...descendantsOf(one)])) {
    for (const file of ['cmdline', 'environ']) {
      const path = `/proc/${pid}/${file}`;
      if (existsSync(path)) look(path, readFileSync(path, 'latin1'));
    }
  }
  return histories;
}

/** Throws, naming `where` and nothing of the secret, when a text holds one. */
export type Look = (where: string, text: string) => void;

/** Looks for secrets as they are, and as URLs, JSON, base64 and HTTP's basic way write them. */
export function lookFor(secrets: readonly string[]): Look {
  const spellings = new Set(
    secrets.flatMap((secret) => {
      const bytes = Buffer.from(secret);
      const encoded = encodeURIComponent(secret);
      return [
        secret,
        encoded,
        encoded.replaceAll('%2F', '/'),
        JSON.stringify(secret).slice(1, -1),
        bytes.toString('base64').replace(/=+$/, ''),
        bytes.toString('base64url'),
      ];
    }),
  );
  return (where, text) => {
    for (const spelling of spellings) {
      const at = text.indexOf(spelling);
      if (at < 0) continue;
      const before = JSON.stringify(text.slice(Math.max(0, at - 200), at));
      throw new Error(
        `O4: ${where} holds a secret (spelled with ${spelling.length} bytes), behind ${before}`,
      );
    }
  };
}

/** Histories, their payloads, and what a running workflow tells of its activities. @returns how many were read */
export async function requireSilentHistories(look: Look, client: Client): Promise<number> {
  let histories = 0;
  for await (const { workflowId, runId } of client.workflow.list()) {
    const text = historyToJSON(await client.workflow.getHandle(workflowId, runId).fetchHistory());
    lookInto(look, workflowId, text);
    histories += 1;
  }
  return histories;
}

/** The heartbeats, last failures, memos and search attributes of what runs at this moment. */
export async function describeRunning(client: Client): Promise<string[]> {
  const told: string[] = [];
  for await (const { workflowId, runId } of client.workflow.list({ query: "ExecutionStatus = 'Running'" })) {
    const { raw } = await client.workflow.getHandle(workflowId, runId).describe();
    told.push(JSON.stringify(raw));
  }
  return told;
}

/** A text of Temporal's, whose payloads are base64: a secret in the middle of one has another spelling there. */
export function lookInto(look: Look, what: string, text: string): void {
  look(`what Temporal holds of ${what}`, text);
  for (const [, data = ''] of text.matchAll(/"data": *"([^"]*)"/g))
    look(`a payload of ${what}`, Buffer.from(data, 'base64').toString('latin1'));
}

/** All files below `directory` but those of `secrets/`, which must be closed to others. */
export function requireSilentFiles(look: Look, directory: string): number {
  let files = 0;
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (!entry.isFile()) continue;
    files += 1;
    if (path.startsWith(join(directory, 'secrets/'))) {
      const { mode } = lstatSync(path);
      if ((mode & 0o077) !== 0) throw new Error(`O4: ${path} can be read by others (${mode.toString(8)})`);
    } else look(path, readFileSync(path, 'latin1'));
  }
  return files;
}

export interface Watch {
  /** Ends it. @returns what was seen: `PID cmdline`, `PID environ`, and the text */
  stop(): ReadonlyMap<string, string>;
}

/**
 * Reads, again and again, the command lines and environments of all that descends from this process.
 *
 * @param skip command lines whose own environment is their way to be told, and those of servers
 */
export function watchProcesses(skip: { readonly environment: RegExp; readonly all: RegExp }): Watch {
  const seen = new Map<string, string>();
  const look = () => {
    for (const pid of descendants()) {
      const command = readProcess(pid, 'cmdline');
      if (command === '' || skip.all.test(command)) continue;
      seen.set(`${pid} cmdline ${command}`, command);
      if (!skip.environment.test(command)) seen.set(`${pid} environ ${command}`, readProcess(pid, 'environ'));
    }
  };
  const timer = setInterval(look, 40);
  return {
    stop() {
      clearInterval(timer);
      return seen;
    },
  };
}

function readProcess(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1').replaceAll('\0', '\n');
  } catch {
    return ''; // it ended while we looked
  }
}

/** In one pass over all processes: this runs many times a second. */
function descendants(): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const stat = readProcess(Number(name), 'stat');
    const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
    children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
  }
  const found = [process.pid];
  for (const pid of found) found.push(...(children.get(pid) ?? []));
  return found.slice(1);
}
