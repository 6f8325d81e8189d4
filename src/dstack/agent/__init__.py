"""The agent: the daemon on a host that runs jobs there and tells the server about them.

It stands alone: the standard library, `dstack.kit`, `dstack.errors` and three modules of `dstack.protocol` are all it
imports; asyncssh is met only in the SSH process beside it. What belongs elsewhere: which job runs where, when to try
again, and anything else that needs to know more than one host.

The processes, each started by the one above it:

* the *agent* (`main`, `link`, `jobs`, `logs`, `files`) serves one unix socket, and may die at any moment without harm;
* the *spawner* (`spawner`) is a fork of the agent from before it loaded anything, so that a job costs a fork;
* a *supervisor* (`supervisor`) for each job outlives agent and server, and writes down how the job ended;
* the *SSH server* (`sshd`) lets people in and opens channels to ports; it shares only the folder with the agent.

All state is in the agent's home folder (`paths`): an agent that starts there knows what the one before it knew.
"""
