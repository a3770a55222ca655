/* Sets the system clock from the real-time clock. The kernel of a 32-bit machine refuses to do it itself after 2038, and
 * 32-bit programs of the distribution cannot say such a time. */
#include <fcntl.h>
#include <linux/rtc.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>

_Static_assert(sizeof(time_t) == 8, "this program needs a 64-bit time_t");

int main(void)
{
    struct rtc_time rtc;
    int clock = open("/dev/rtc0", O_RDONLY);
    if (clock < 0 || ioctl(clock, RTC_RD_TIME, &rtc) < 0) {
        perror("/dev/rtc0");
        return 1;
    }
    struct tm calendar = {
        .tm_sec = rtc.tm_sec, .tm_min = rtc.tm_min, .tm_hour = rtc.tm_hour,
        .tm_mday = rtc.tm_mday, .tm_mon = rtc.tm_mon, .tm_year = rtc.tm_year,
    };
    struct timespec now = { .tv_sec = timegm(&calendar) };
    if (clock_settime(CLOCK_REALTIME, &now) < 0) {
        perror("clock_settime");
        return 1;
    }
    printf("the clock says %lld\n", (long long)now.tv_sec);
    return 0;
}
