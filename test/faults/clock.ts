/** Clocks that are wrong: libfaketime, where this host has it. */
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startProcess } from '../support/processes.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { repositoryRoot } from '../support/tools.ts';
import { until } from '../support/wait.ts';

const PLACES = ['/usr/lib', '/usr/lib64', '/usr/local/lib'];
const TOOLS = join(repositoryRoot, '.walkeep/tools.json');
const NAME = 'libfaketimeMT.so.1';

/** libfaketime's library for programs with threads, if there is one. */
export function faketimeLibrary(): string | undefined {
  const folders = PLACES.filter((place) => existsSync(place)).flatMap((place) => [
    join(place, 'faketime'),
    ...readdirSync(place).map((name) => join(place, name, 'faketime')),
  ]);
  return [...folders, ...unpacked()].map((folder) => join(folder, NAME)).find((path) => existsSync(path));
}

/** Where scripts/setup put it, on a host that has none installed. */
function unpacked(): string[] {
  if (!existsSync(TOOLS)) return [];
  const { cache } = JSON.parse(readFileSync(TOOLS, 'utf8')) as { cache?: string };
  return cache === undefined ? [] : [join(cache, 'faketime')];
}

/** A wall clock that can be set while programs run; what measures durations is left alone. */
export interface Clock {
  /** For the programs that are to have it. */
  readonly environment: Readonly<Record<string, string>>;
  /** @param offset such as `+2d`, or seconds */
  set(offset: string): void;
}

export async function createClock(library: string): Promise<Clock> {
  const file = join(makeTempDir('clock'), 'offset');
  const set = (offset: string): void => {
    writeFileSync(`${file}.new`, `${offset}\n`);
    giveToServerUser(`${file}.new`);
    renameSync(`${file}.new`, file);
  };
  set('+0');
  // The library shares a piece of memory, which would belong to root where setpriv runs as root and then becomes another
  // user, who could not open it. This process makes it as that user.
  const owner = startProcess('/usr/bin/env', [`LD_PRELOAD=${library}`, 'sleep', '3600'], {
    user: serverUser,
  });
  await until('libfaketime', () => existsSync(`/dev/shm/faketime_shm_${owner.pid}`));
  return {
    environment: {
      LD_PRELOAD: library,
      FAKETIME_TIMESTAMP_FILE: file,
      FAKETIME_CACHE_DURATION: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
      DONT_FAKE_MONOTONIC: '1',
      NO_FAKE_STAT: '1',
      FAKETIME_SHARED: `/faketime_sem_${owner.pid} /faketime_shm_${owner.pid}`,
    },
    set,
  };
}
